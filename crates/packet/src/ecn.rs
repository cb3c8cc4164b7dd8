//! Explicit congestion notification between the inner and the outer header (RFC 3168, RFC 6040).

/// The two ECN bits of an IP header's traffic class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable: 00.
    #[default]
    NotEct = 0b00,
    /// ECN-capable transport (1): 01.
    Ect1 = 0b01,
    /// ECN-capable transport (0): 10.
    Ect0 = 0b10,
    /// Congestion experienced: 11.
    Ce = 0b11,
}

impl Ecn {
    /// The bits of a traffic class (IPv6) or type of service (IPv4) byte.
    pub const fn of(traffic_class: u8) -> Self {
        match traffic_class & 0b11 {
            0b00 => Self::NotEct,
            0b01 => Self::Ect1,
            0b10 => Self::Ect0,
            _ => Self::Ce,
        }
    }
}
