//! A WireGuard device without any IO: sessions, allowed IPs, timers, cookies, and the UAPI text.
