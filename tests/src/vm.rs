//! Nodes in network namespaces of a virtual machine, whose kernel has what the one below may lack.

use wireloom_testkit::{Vm, wireloom_binary};

use crate::Keys;

/// Boots a machine with ours and these programs and modules of the kernel, and makes three hosts there on one bridge: the
/// namespaces n1 to n3, with the addresses 192.0.2.N/24 and 2001:db8::N/64 on `eth0` and their private keys, which are
/// returned, in `/run/nN/key`.
pub fn three_nodes(programs: &[&str], modules: &str) -> (Vm, Vec<Keys>) {
    let ours = wireloom_binary();
    let programs: Vec<_> = programs.iter().map(AsRef::as_ref).chain([ours.as_path()]).collect();
    let vm = Vm::boot(&[], &programs);
    vm.ok(&format!(
        "modprobe -a bridge veth nf_tables {modules} && mkdir -p /run/netns \
         && ip link add br0 type bridge && ip link set br0 up"
    ));
    let keys: Vec<Keys> = (1..=3).map(|_| Keys::new()).collect();
    for (number, keys) in (1..).zip(&keys) {
        let private = &keys.private;
        vm.ok(&format!(
            "umask 077; mkdir -p /run/n{number}; echo {private} > /run/n{number}/key; set -e
             ip netns add n{number}
             ip link add v{number} type veth peer name eth0 netns n{number}
             ip link set v{number} master br0 up
             ip -n n{number} link set lo up
             ip -n n{number} link set eth0 up
             ip -n n{number} address add 192.0.2.{number}/24 dev eth0
             ip -n n{number} address add 2001:db8::{number}/64 dev eth0 nodad
             ip netns exec n{number} ping -c 1 -W 20 192.0.2.{number}
             while ip -n n{number} address | grep -q tentative; do sleep 0.1; done"
        ));
    }
    (vm, keys)
}
