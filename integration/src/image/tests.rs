use std::{collections::BTreeMap, io::Read};

use super::*;

fn image() -> Image {
    Image { fairway: b"the plugin".to_vec(), fairway_proxy: vec![7; 100_000] }
}

fn archive() -> Vec<u8> {
    image().archive("registry.example/fairway:1.0").unwrap()
}

/// The files of an archive, with their modes; all of them are root's, and of no time.
fn unpacked(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut archive = tar::Archive::new(archive);
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        let (path, mode) = (entry.path().unwrap().to_str().unwrap().to_owned(), header.mode().unwrap());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, (mode, content))
    });
    files.collect()
}

fn json(files: &BTreeMap<String, (u32, Vec<u8>)>, path: &str) -> Value {
    serde_json::from_slice(&files[path].1).unwrap()
}

/// The file that a descriptor names.
fn path_of(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/"))
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    assert_eq!(archive(), archive());
}

#[test]
fn every_blob_has_the_name_and_the_size_that_it_is_found_by() {
    let files = unpacked(&archive());
    let index = json(&files, "index.json");
    let manifest = json(&files, &path_of(&index["manifests"][0]));

    let blobs: Vec<_> = files.iter().filter(|(path, _)| path.starts_with("blobs/")).collect();
    let named = [&index["manifests"][0], &manifest["config"], &manifest["layers"][0]];

    assert_eq!(blobs.len(), named.len());
    for (path, (_, content)) in blobs {
        let hash =
            Sha256::digest(content).iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
        assert_eq!(*path, format!("blobs/sha256/{hash}"));
        let descriptor = named.iter().find(|descriptor| path_of(descriptor) == *path).unwrap();
        assert_eq!(descriptor["size"], content.len());
    }
}

#[test]
fn docker_and_others_are_led_to_the_same_image_of_the_same_name() {
    let files = unpacked(&archive());
    let (index, docker) = (json(&files, "index.json"), &json(&files, "manifest.json")[0]);
    let manifest = json(&files, &path_of(&index["manifests"][0]));

    assert_eq!(docker["RepoTags"], json!(["registry.example/fairway:1.0"]));
    assert_eq!(
        index["manifests"][0]["annotations"]["io.containerd.image.name"],
        "registry.example/fairway:1.0"
    );
    assert_eq!(docker["Config"], json!(path_of(&manifest["config"])));
    assert_eq!(docker["Layers"], json!([path_of(&manifest["layers"][0])]));
}

#[test]
fn there_are_the_two_programs_and_nothing_else() {
    let files = unpacked(&archive());
    let manifest = json(&files, &path_of(&json(&files, "index.json")["manifests"][0]));
    let (config, layer) = (json(&files, &path_of(&manifest["config"])), &manifest["layers"][0]);

    let programs = unpacked(&files[&path_of(layer)].1);

    let Image { fairway, fairway_proxy } = image();
    let expected = [("fairway", fairway), ("fairway-proxy", fairway_proxy)];
    assert_eq!(programs, expected.map(|(path, program)| (path.to_owned(), (0o755, program))).into());
    assert_eq!(config["config"]["Entrypoint"], json!(["/fairway-proxy"]));
    assert_eq!(config["rootfs"]["diff_ids"], json!([layer["digest"]]));
}

#[test]
fn packing_takes_a_few_kilobytes() {
    let Image { fairway, fairway_proxy } = image();
    assert!(archive().len() < fairway.len() + fairway_proxy.len() + 16_384);
}
