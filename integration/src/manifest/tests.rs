use super::*;

/// Every object's name, or the error, one a line.
fn check(text: &str, expected: &[&str]) {
    let said: Vec<String> = match parse("x.yaml", text) {
        Ok(objects) => objects.iter().map(|object| object.name.to_string()).collect(),
        Err(error) => vec![error.to_string()],
    };
    assert_eq!(said, expected);
}

const SERVICE: &str =
    "{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}";

#[test]
fn documents_and_lists_give_their_objects_in_order() {
    check(
        &format!("kind: List\nitems:\n- {SERVICE}\n- {SERVICE}\n---\n{}", SERVICE.replace("web", "third")),
        &["Service default/web", "Service default/web", "Service default/third"],
    );
}

#[test]
fn json_is_yaml() {
    check(
        r#"{"kind":"EndpointSlice","metadata":{"name":"web-1","namespace":"shop"}}"#,
        &["EndpointSlice shop/web-1"],
    );
}

#[test]
fn an_empty_file_holds_no_object() {
    check("# nothing yet\n", &[]);
}

#[test]
fn a_node_lives_in_no_namespace() {
    check(
        "{kind: Node, metadata: {name: w1}, status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}",
        &["Node w1"],
    );
}

#[test]
fn an_error_names_file_object_and_field() {
    check(
        &SERVICE.replace("port: 80", "port: many"),
        &["x.yaml: Service default/web: spec.ports[0].port: invalid type: string \"many\", expected u16"],
    );
    check(
        &SERVICE.replace("10.96.0.1", "10.96.0.256"),
        &["x.yaml: Service default/web: spec.clusterIP: \"10.96.0.256\" is no IP address"],
    );
}

#[test]
fn a_name_that_leads_elsewhere_is_no_name() {
    check(
        &SERVICE.replace("name: web", "name: ../web"),
        &[
            "x.yaml: Service default/../web: metadata.name: \"../web\" is no name: a-z 0-9 - . with a letter or digit first and last",
        ],
    );
    check(
        &SERVICE.replace("name: web", "name: web, namespace: a/b"),
        &[
            "x.yaml: Service a/b/web: metadata.namespace: \"a/b\" is no name: a-z 0-9 - . with a letter or digit first and last",
        ],
    );
    check(
        "{kind: Pod, metadata: {name: web}, spec: {containers: [{name: a/b}]}}",
        &[
            "x.yaml: Pod default/web: spec.containers[0].name: \"a/b\" is no name: a-z 0-9 - . with a letter or digit first and last",
        ],
    );
}

#[test]
fn a_kind_that_the_lab_does_nothing_with_is_named() {
    check(
        "{kind: Deployment, metadata: {name: web}}",
        &["x.yaml: Deployment default/web: kind is none of Node, Pod, Service, EndpointSlice, List"],
    );
}

#[test]
fn a_document_without_a_name_is_counted() {
    check(
        &format!("{SERVICE}\n---\nkind: Pod\n"),
        &["x.yaml: document 2 is no object with kind and metadata.name: missing field `metadata`"],
    );
}

#[test]
fn containers_of_a_pod_share_its_ports() {
    check(
        "{kind: Pod, metadata: {name: a}, spec: {containers: [{name: one, ports: [{containerPort: 80}]}, \
         {name: two, ports: [{containerPort: 80}]}]}}",
        &["x.yaml: Pod default/a: spec.containers[1].ports[0]: the same port as spec.containers[0].ports[0]"],
    );
}

#[test]
fn what_only_the_daemon_understands_stays_in_the_document() {
    let text = SERVICE.replace("ports:", "externalIPs: [192.0.2.1], ports:");

    let objects = parse("x.yaml", &text).unwrap();

    assert_eq!(objects[0].document["spec"]["externalIPs"][0], "192.0.2.1");
    assert_eq!(objects[0].document["metadata"]["namespace"], "default");
}

#[test]
fn broken_yaml_is_one_line() {
    let error = parse("x.yaml", "a: [1, 2\nb: 3").unwrap_err().to_string();

    assert!(error.starts_with("x.yaml: not YAML: "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}
