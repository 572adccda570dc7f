//! Routers that become other ones while they run.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_router_becomes_one_of_another_kind_and_again_what_it_was() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let mut router = wan.router(home(NatKind::FullCone), 20).await;
    let socket = udp(&member(&router, 2), INNER);
    let maps_by_destination = || servers.sees(0, &socket) != servers.sees(1, &socket);
    assert!(!maps_by_destination());
    router.become_kind(NatKind::Symmetric).expect("it is one");
    assert!(maps_by_destination());
    router.become_kind(NatKind::FullCone).expect("it is one");
    assert!(!maps_by_destination());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_takes_another_address() {
    let mut wan = Wan::new().await;
    let servers = wan.servers().await;
    let mut router = wan.router(home(NatKind::PortRestricted), 20).await;
    let socket = udp(&member(&router, 2), INNER);
    assert_eq!(servers.sees(0, &socket).ip(), at(20));
    router.readdress(at(21)).expect("readdressed");
    let last = InstanceId(wan.attached - 1);
    wan.switch.readdress(&wan.run, last, at(21)).await.expect("readdressed");
    let taken = wan.switch.readdress(&wan.run, last, at(10)).await;
    assert!(taken.is_err_and(|err| err.to_string().contains("taken")));
    let seen = servers.sees(0, &socket);
    assert_eq!(seen.ip(), at(21));
    servers.sockets[0].send_to(b"moved", seen).expect("sent");
    assert_eq!(receive(&socket), b"moved");
}
