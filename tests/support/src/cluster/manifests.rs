//! Objects that every cluster has.

use std::net::IpAddr;

/// The cluster's DNS, as it stands in most clusters: CoreDNS behind the service `kube-system/kube-dns`.
pub(super) fn dns(upstream: IpAddr) -> String {
    include_str!("coredns.yaml").replace("UPSTREAM", &upstream.to_string())
}
