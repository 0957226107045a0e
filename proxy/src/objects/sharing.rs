//! One copy of what many objects say: names of namespaces, nodes and ports.
//!
//! In: objects, one after the other. Out: the same, which share such texts with those before. Nobody else need know. Pure.

use std::{collections::HashSet, sync::Arc};

use super::Object;

/// Texts below this number are not looked through for those that nobody uses any more.
const FEW: usize = 256;

/// Texts that objects share.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Arc<str>>,
    /// How many there were when those that nobody used were let go of.
    swept: usize,
}

impl Shared {
    /// Has an object share its texts. One that somebody else has already stays as it is.
    pub fn share(&mut self, object: &mut Object) {
        match object {
            Object::Service(service) => {
                let Some(service) = Arc::get_mut(service) else { return };
                self.text(&mut service.name.namespace);
                service.ports.iter_mut().for_each(|port| self.text(&mut port.name));
            }
            Object::EndpointSlice(slice) => {
                let Some(slice) = Arc::get_mut(slice) else { return };
                self.text(&mut slice.name.namespace);
                slice.ports.iter_mut().for_each(|port| self.text(&mut port.name));
                slice
                    .endpoints
                    .iter_mut()
                    .flat_map(|endpoint| &mut endpoint.node)
                    .for_each(|node| self.text(node));
            }
            Object::Node(_) | Object::ServiceCidr(_) => {} // there are few
        }
        if self.texts.len() > 2 * self.swept + FEW {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.swept = self.texts.len();
        }
    }

    fn text(&mut self, text: &mut Arc<str>) {
        if let Some(known) = self.texts.get(text) {
            *text = Arc::clone(known);
        } else {
            self.texts.insert(Arc::clone(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(namespace: &str, node: &str) -> Object {
        let endpoint = json!({"addresses": ["10.244.1.2"], "nodeName": node});
        let object = json!({
            "kind": "EndpointSlice", "addressType": "IPv4", "metadata": {"namespace": namespace, "name": "a"},
            "ports": [{"name": "http", "port": 80}], "endpoints": [endpoint],
        });
        Object::parse(object).unwrap().unwrap()
    }

    fn texts(object: &Object) -> [&Arc<str>; 3] {
        let Object::EndpointSlice(slice) = object else { panic!("{object:?}") };
        [&slice.name.namespace, &slice.ports[0].name, slice.endpoints[0].node.as_ref().unwrap()]
    }

    #[test]
    fn what_is_the_same_is_there_once_and_says_what_it_said() {
        let mut shared = Shared::default();
        let (mut first, mut second) = (slice("shop", "w1"), slice("shop", "w1"));

        shared.share(&mut first);
        shared.share(&mut second);

        assert_eq!(second, slice("shop", "w1"));
        assert!(texts(&first).into_iter().zip(texts(&second)).all(|(one, other)| Arc::ptr_eq(one, other)));
    }

    #[test]
    fn what_nobody_uses_any_more_is_let_go_of() {
        let mut shared = Shared::default();
        let mut kept = slice("shop", "w1");
        shared.share(&mut kept);

        for number in 0..10 * FEW {
            shared.share(&mut slice(&format!("namespace-{number}"), "w1"));
        }

        assert!(shared.texts.len() <= 2 * FEW, "{}", shared.texts.len());
        assert!(texts(&kept).into_iter().all(|text| shared.texts.contains(text)));
    }
}
