//! The container image: the two programs, and nothing else.
//!
//! In: the programs. Out: an archive that is an OCI image layout and what `docker save` writes at once, so that whatever loads images takes it:
//!
//! ```text
//! oci-layout, index.json     image-spec "Image Layout"             podman, skopeo, containerd
//! manifest.json              what docker load looks for first      docker
//! blobs/sha256/…             manifest, configuration, and one layer with /fairway and /fairway-proxy
//! ```
//!
//! The same programs give the same bytes: no clock, no owner and no order of a file system is in it.

use std::{env::consts::ARCH, io};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// The image's name, if nobody says another. No registry has it.
pub const NAME: &str = concat!("localhost/fairway:", env!("CARGO_PKG_VERSION"));

/// Before anybody had a computer: nothing of an image is of its own time.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// What is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The plugin, which the daemon installs.
    pub fairway: Vec<u8>,
    /// The daemon, which the image starts.
    pub fairway_proxy: Vec<u8>,
}

/// Content that is found by its hash.
struct Blob {
    hash: String,
    content: Vec<u8>,
}

impl Blob {
    fn of(content: Vec<u8>) -> Self {
        let hash =
            Sha256::digest(&content).iter().fold(String::new(), |hash, byte| hash + &format!("{byte:02x}"));
        Self { hash, content }
    }

    fn of_json(value: &Value) -> Self {
        Self::of(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hash)
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hash)
    }

    fn descriptor(&self, kind: &str) -> Value {
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": self.digest(), "size": self.content.len() })
    }
}

impl Image {
    /// Packs the image under a name, such as `registry.example/fairway:1.0`.
    pub fn archive(&self, name: &str) -> io::Result<Vec<u8>> {
        let programs = [("fairway", &self.fairway), ("fairway-proxy", &self.fairway_proxy)];
        let layer = Blob::of(tarred(programs.map(|(path, program)| (path, program.as_slice(), 0o755)))?);
        let config = Blob::of_json(&json!({
            "created": CREATED,
            "architecture": architecture(),
            "os": "linux",
            "config": { "Entrypoint": ["/fairway-proxy"], "WorkingDir": "/" },
            "rootfs": { "type": "layers", "diff_ids": [layer.digest()] },
        }));
        let manifest = Blob::of_json(&json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.descriptor("config.v1+json"),
            "layers": [layer.descriptor("layer.v1.tar")],
        }));
        let mut entry = manifest.descriptor("manifest.v1+json");
        // What containerd, and what others take the name from.
        let names = json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
        entry.as_object_mut().map(|entry| entry.insert("annotations".to_owned(), names));
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [entry],
        });
        let docker = json!([{ "Config": config.path(), "RepoTags": [name], "Layers": [layer.path()] }]);

        let mut files: Vec<(String, Vec<u8>)> =
            [layer, config, manifest].into_iter().map(|blob| (blob.path(), blob.content)).collect();
        files.sort();
        files.push(("index.json".into(), index.to_string().into_bytes()));
        files.push(("manifest.json".into(), docker.to_string().into_bytes()));
        files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        tarred(files.iter().map(|(path, content)| (path.as_str(), content.as_slice(), 0o644)))
    }
}

/// Packs files, in the order in which they come, as root's and of no time.
fn tarred<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8], u32)>) -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for (path, content, mode) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(u64::try_from(content.len()).map_err(io::Error::other)?);
        archive.append_data(&mut header, path, content)?;
    }
    archive.into_inner()
}

/// This machine's processor as images name it (GOARCH).
fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests;
