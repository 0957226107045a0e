use super::*;

/// Reads a request from variables, as `NAME=value` with spaces between them.
fn parse(variables: &str) -> Result<Request, Error> {
    let vars = variables.split_whitespace().map(|pair| pair.split_once('=').unwrap());
    let vars = vars.map(|(name, value)| (name.into(), value.into()));
    Request::parse(&Environment::from_vars(vars, SystemTime::UNIX_EPOCH))
}

fn refusal(variables: &str) -> String {
    parse(variables).unwrap_err().to_string()
}

const CONTAINER: &str = "CNI_CONTAINERID=c1 CNI_NETNS=/run/netns/p CNI_IFNAME=eth0";

#[test]
fn an_add_knows_its_target_and_its_pod() {
    let args = "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=u";
    let Ok(Request::Verb(Verb::Add(target))) = parse(&format!("CNI_COMMAND=ADD {CONTAINER} {args}")) else {
        panic!("no ADD")
    };

    assert_eq!((target.attachment.container_id(), target.attachment.ifname()), ("c1", "eth0"));
    assert_eq!(target.netns, PathBuf::from("/run/netns/p"));
    assert_eq!(target.subject(), "pod default/web");
    assert!(!target.may_be_own);
}

#[test]
fn a_container_that_is_no_pod_is_called_by_its_id() {
    let Ok(Request::Verb(Verb::Check(target))) = parse(&format!("CNI_COMMAND=CHECK {CONTAINER}")) else {
        panic!("no CHECK")
    };
    assert_eq!(target.subject(), "container c1");
}

#[test]
fn each_verb_needs_its_own_variables_and_names_all_that_are_missing() {
    for (variables, missing) in [
        ("CNI_COMMAND=ADD", "ADD needs the environment variables CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        (
            "CNI_COMMAND=CHECK CNI_NETNS=/n",
            "CHECK needs the environment variables CNI_CONTAINERID, CNI_IFNAME",
        ),
        ("CNI_COMMAND=DEL", "DEL needs the environment variables CNI_CONTAINERID, CNI_IFNAME"),
        ("CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_IFNAME=", "DEL needs the environment variables CNI_IFNAME"),
    ] {
        assert_eq!(refusal(variables), missing);
    }
    for enough in
        ["CNI_COMMAND=GC", "CNI_COMMAND=STATUS", "CNI_COMMAND=DEL CNI_CONTAINERID=c CNI_IFNAME=e CNI_NETNS="]
    {
        assert!(matches!(parse(enough), Ok(Request::Verb(_))), "{enough}");
    }
    assert_eq!(parse("CNI_COMMAND=VERSION"), Ok(Request::Version));
    assert_eq!(parse("PATH=/bin"), Ok(Request::About));
}

#[test]
fn an_unknown_verb_is_named_with_those_there_are() {
    assert_eq!(
        refusal("CNI_COMMAND=add"),
        "unknown CNI_COMMAND \"add\": ADD, CHECK, DEL, GC, STATUS or VERSION"
    );
}

#[test]
fn what_becomes_a_file_or_a_link_is_fit_for_it() {
    let long = "x".repeat(201);
    for id in ["../x", ".x", "-x", "a/b", "a b", "ä", long.as_str()] {
        assert!(matches!(Attachment::new(id, "eth0"), Err(Error::ContainerId(_))), "{id}");
    }
    for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-", "a\0"] {
        assert!(matches!(Attachment::new("c", name), Err(Error::Ifname(_))), "{name}");
    }
    for name in ["eth0", "net1.100", "fifteen-letters", "@"] {
        assert!(Attachment::new("0_c.d-E", name).is_ok(), "{name}");
    }
}

#[test]
fn arguments_are_pairs_and_a_hardware_address_that_is_asked_for_is_one_that_a_link_can_have() {
    assert_eq!(
        refusal(&format!("CNI_COMMAND=ADD {CONTAINER} CNI_ARGS=x")),
        "CNI_ARGS: \"x\" is not KEY=VALUE"
    );
    let wish = |mac: &str| format!("CNI_COMMAND=ADD {CONTAINER} CNI_ARGS=IgnoreUnknown=1;MAC={mac}");
    let Ok(Request::Verb(Verb::Add(target))) = parse(&wish("02:00:00:00:00:01")) else { panic!("no ADD") };
    assert_eq!(target.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
    let Ok(Request::Verb(Verb::Add(target))) = parse(&wish("")) else { panic!("no ADD") };
    assert_eq!(target.mac, None);
    assert_eq!(
        refusal(&wish("01:00:5e:00:00:01")),
        "CNI_ARGS: MAC=\"01:00:5e:00:00:01\": six pairs of hexadecimal digits with colons between them, and no group's"
    );
}

#[test]
fn an_address_is_asked_for_with_or_without_its_prefix() {
    for (args, expected) in [("IP=10.0.0.9", "10.0.0.9"), ("A=b;IP=fd00::9/64", "fd00::9")] {
        let variables = format!("CNI_COMMAND=ADD {CONTAINER} CNI_ARGS={args}");
        let Ok(Request::Verb(Verb::Add(target))) = parse(&variables) else { panic!("no ADD") };
        assert_eq!(target.requested, Some(expected.parse().unwrap()), "{args}");
    }
    let refused = refusal(&format!("CNI_COMMAND=ADD {CONTAINER} CNI_ARGS=IP=none"));
    assert_eq!(refused, "CNI_ARGS: IP=\"none\" is no address");
}

#[test]
fn a_namespace_may_be_the_plugin_s_own_only_if_the_runtime_says_so() {
    for (value, expected) in [("1", true), ("true", true), ("0", false), ("yes", false)] {
        let variables = format!("CNI_COMMAND=ADD {CONTAINER} CNI_NETNS_OVERRIDE={value}");
        let Ok(Request::Verb(Verb::Add(target))) = parse(&variables) else { panic!("no ADD") };
        assert_eq!(target.may_be_own, expected, "{value}");
    }
}
