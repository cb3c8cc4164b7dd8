//! ICMP errors about inner packets (RFC 792, RFC 4443).
