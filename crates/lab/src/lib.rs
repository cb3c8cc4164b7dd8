//! Whole networks in network namespaces: regions, routers, NAT, latency.
