//! [`Cable`]: a namespace of networks, which is another machine as far as those go.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::own_engine::ip;

/// A namespace and the way to it.
pub(crate) struct Cable {
    pub(crate) namespace: String,
    near: String,
    network: String,
}

impl Cable {
    /// The network is named by the first three numbers of its addresses: 1 is here, 2 is there.
    pub(crate) fn new(network: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("pdt{}n{count}", std::process::id());
        let cable = Self {
            near: format!("{namespace}v"),
            namespace,
            network: network.to_owned(),
        };
        let (namespace, near) = (cable.namespace.as_str(), cable.near.as_str());
        ip(&["netns", "add", namespace]);
        let far = ["peer", "name", "far", "netns", namespace];
        ip(&[&["link", "add", near, "type", "veth"][..], &far].concat());
        let here = format!("{}/24", cable.address(1));
        ip(&["address", "add", &here, "dev", near]);
        ip(&["link", "set", near, "up"]);
        cable.add(2);
        for name in ["lo", "far"] {
            ip(&["-netns", namespace, "link", "set", name, "up"]);
        }
        cable
    }

    /// Another address there.
    pub(crate) fn add(&self, number: u8) {
        let there = format!("{}/24", self.address(number));
        let add = ["address", "add", &there, "dev", "far"];
        ip(&[&["-netns", &self.namespace][..], &add].concat());
    }

    pub(crate) fn address(&self, number: u8) -> String {
        format!("{}.{number}", self.network)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        drop(
            Command::new("ip")
                .args(["link", "del", &self.near])
                .output(),
        );
        let delete = ["netns", "del", &self.namespace];
        drop(Command::new("ip").args(delete).output());
    }
}
