use super::*;

fn names(format: Format, text: &str) -> Vec<String> {
    let manifest = parse(format, text).unwrap();
    assert_eq!(manifest.invalid, []);
    manifest.objects.iter().map(|object| format!("{} {}", object.kind(), object.name())).collect()
}

#[test]
fn several_documents_are_read_and_other_kinds_passed_over() {
    let text = "
# a comment, and an empty document
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
---
apiVersion: v1
kind: Node
metadata: {name: w1}
";
    assert_eq!(names(Format::Yaml, text), ["Service default/web", "Node w1"]);
}

#[test]
fn documents_without_anything_in_them_are_passed_over() {
    let text = "---\n# nothing yet\n---\nkind: Node\nmetadata: {name: a}\n---\nnull\n---\n";

    let manifest = parse(Format::Yaml, text).unwrap();

    assert_eq!((manifest.objects.len(), manifest.invalid), (1, Vec::new()));
}

#[test]
fn a_list_holds_objects_of_its_own_kinds() {
    let text = "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: w1}}
- {apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1}, addressType: IPv4}
";
    assert_eq!(names(Format::Yaml, text), ["Node w1", "EndpointSlice default/web-1"]);
}

#[test]
fn the_items_of_a_typed_list_need_not_repeat_their_kind() {
    let text = r#"{"apiVersion": "v1", "kind": "NodeList", "items": [{"metadata": {"name": "w1"}}]}"#;

    assert_eq!(names(Format::Json, text), ["Node w1"]);
}

#[test]
fn a_list_of_other_kinds_is_passed_over() {
    let text =
        r#"{"apiVersion": "apps/v1", "kind": "DeploymentList", "items": [{"metadata": {"name": "w1"}}]}"#;

    assert_eq!(names(Format::Json, text), [""; 0]);
}

#[test]
fn json_values_may_follow_each_other() {
    let text = "{\"kind\": \"Node\",\n\t\"metadata\": {\"name\": \"w1\"}}\n{\"kind\": \"Node\", \"metadata\": {\"name\": \"w2\"}}";

    assert_eq!(names(Format::Json, text), ["Node w1", "Node w2"]);
}

#[test]
fn an_invalid_object_leaves_the_others_alone() {
    let text = "
kind: Node
metadata: {}
---
kind: Node
metadata: {name: w1}
";
    let manifest = parse(Format::Yaml, text).unwrap();

    assert_eq!(manifest.objects.len(), 1);
    assert_eq!(manifest.invalid[0].to_string(), "Node without a name: metadata.name: missing");
}

#[test]
fn a_syntax_error_says_where() {
    let error = parse(Format::Yaml, "kind: Node\nmetadata: {name: w1\n").unwrap_err();

    assert!(error.contains("line"), "{error}");
}

#[test]
fn a_field_given_twice_is_an_error() {
    assert!(parse(Format::Yaml, "kind: Node\nkind: Service\n").unwrap_err().contains("kind"));
}

#[test]
fn an_alias_bomb_is_refused_quickly() {
    let levels = (1..12).map(|level| {
        let inner = vec![format!("*a{}", level - 1); 9].join(",");
        format!("a{level}: &a{level} [{inner}]\n")
    });
    let text = format!("a0: &a0 [x,x,x,x,x,x,x,x,x]\n{}", levels.collect::<String>());

    let error = parse(Format::Yaml, &text).unwrap_err();

    assert!(error.contains("alias") || error.contains("budget"), "{error}");
}

#[test]
fn ordinary_anchors_work() {
    let text = "
kind: Node
metadata: &name {name: w1}
---
kind: Service
metadata: {name: web}
spec: {clusterIP: &ip 10.96.0.1, clusterIPs: [*ip]}
";
    assert_eq!(names(Format::Yaml, text), ["Node w1", "Service default/web"]);
}

#[test]
fn deep_nesting_is_refused() {
    let deep = "[".repeat(100_000);

    assert!(parse(Format::Yaml, &deep).is_err());
    assert!(parse(Format::Json, &deep).is_err());
}

#[test]
fn many_documents_in_one_file_are_no_bomb() {
    let nodes = (0..2000).map(|number| format!("---\nkind: Node\nmetadata:\n  name: w{number}\n"));

    assert_eq!(names(Format::Yaml, &nodes.collect::<String>()).len(), 2000);
}

#[test]
fn manifests_are_known_by_their_file_name() {
    assert_eq!(Format::of("web.yaml"), Some(Format::Yaml));
    assert_eq!(Format::of("web.v2.yml"), Some(Format::Yaml));
    assert_eq!(Format::of("web.json"), Some(Format::Json));
    for other in ["web.txt", "yaml", ".yaml", ".web.yaml", ".#web.yaml", "web.yaml~", "..data"] {
        assert_eq!(Format::of(other), None, "{other}");
    }
}
