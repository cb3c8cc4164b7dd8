//! File descriptors that a process was started with.

use std::io;
use std::os::fd::OwnedFd;

/// Takes a descriptor that whoever started this process left open for it, by its number. The number itself stays open
/// too, until the process ends.
///
/// # Errors
///
/// If there is no such descriptor.
pub fn descriptor(number: i32) -> io::Result<OwnedFd> {
    crate::sys::duplicate(number)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn a_number_names_an_open_descriptor() {
        let (mut read, write) = std::io::pipe().unwrap();
        let mut copy = std::fs::File::from(super::descriptor(write.as_raw_fd()).unwrap());
        copy.write_all(b"x").unwrap();
        assert_eq!(read.read(&mut [0; 4]).unwrap(), 1);
        assert!(super::descriptor(i32::MAX).is_err());
        assert!(super::descriptor(-1).is_err());
    }
}
