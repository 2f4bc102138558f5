use super::*;

const SECOND: u64 = 1_000_000_000;

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * SECOND)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([198, 51, 100, last])
}

fn bindings() -> Bindings {
    Bindings::new(Limits { names: 3, addresses: 5, addresses_per_name: 4, ..Limits::default() })
}

fn record(
    bindings: &mut Bindings,
    who: &str,
    last: &[u8],
    ttl: u64,
    now: u64,
) -> Result<BootTime, LimitReached> {
    let addresses: Vec<_> = last.iter().map(|last| (address(*last), seconds(ttl))).collect();
    bindings.record(&name(who), &[], &addresses, seconds(10), at(now))
}

fn expiry(bindings: &Bindings, who: &str, last: u8) -> BootTime {
    bindings.of(&name(who)).unwrap().lease(address(last)).unwrap().expires_at
}

#[test]
fn each_address_has_its_own_expiry_and_the_latest_wins() {
    // A5, A6
    let mut bindings = bindings();
    assert_eq!(record(&mut bindings, "a.example", &[1, 2], 60, 100), Ok(at(170)));
    assert_eq!(record(&mut bindings, "a.example", &[2], 5, 110), Ok(at(170)));
    assert_eq!(record(&mut bindings, "a.example", &[2], 60, 120), Ok(at(190)));
    assert_eq!((expiry(&bindings, "a.example", 1), expiry(&bindings, "a.example", 2)), (at(170), at(190)));
    assert_eq!(
        (bindings.next_expiry(at(120)), bindings.next_expiry(at(170))),
        (Some(at(170)), Some(at(190)))
    );
    assert_eq!(bindings.next_expiry(at(190)), None);
}

#[test]
fn many_names_of_an_address() {
    let mut bindings = bindings();
    record(&mut bindings, "b.example", &[1], 60, 0).unwrap();
    record(&mut bindings, "a.example", &[1, 2], 30, 0).unwrap();
    let of = |last| {
        bindings.names_of(address(last)).map(|(binding, _)| binding.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        (of(1), of(2), of(3)),
        (vec!["a.example".into(), "b.example".into()], vec!["a.example".into()], vec![])
    );
    let mapped = "::ffff:198.51.100.2".parse().unwrap();
    assert_eq!(bindings.names_of(mapped).count(), 1);
}

#[test]
fn what_is_used_does_not_lapse() {
    // A5
    let mut bindings = bindings();
    record(&mut bindings, "a.example", &[1], 60, 0).unwrap();
    assert!(!bindings.touch(address(1), at(30)), "counted from the end of the TTL");
    assert!(bindings.touch(address(1), at(65)));
    assert_eq!(expiry(&bindings, "a.example", 1), at(75));
    assert!(!bindings.touch(address(1), at(65)));
    assert!(!bindings.touch(address(1), at(75)), "lapsed before it was used");
    assert!(!bindings.touch(address(9), at(65)));
}

#[test]
fn without_grace_the_ttl_alone_counts() {
    // A5
    let mut bindings = bindings();
    let answer = [(address(1), seconds(60))];
    bindings.record(&name("a.example"), &[], &answer, Duration::ZERO, at(0)).unwrap();
    assert!(!bindings.touch(address(1), at(59)));
    assert_eq!(expiry(&bindings, "a.example", 1), at(60));
}

#[test]
fn a_limit_refuses_the_whole_answer_and_evicts_nothing_live() {
    // Q8, A7
    let mut bindings = bindings();
    record(&mut bindings, "a.example", &[1, 2, 3], 60, 0).unwrap();
    let per_name = Err(LimitReached::AddressesPerName { limit: 4 });
    assert_eq!(record(&mut bindings, "a.example", &[4, 5], 60, 1), per_name);
    assert_eq!(bindings.addresses().count(), 3);
    let all = Err(LimitReached::Addresses { limit: 5 });
    assert_eq!(record(&mut bindings, "b.example", &[4, 5, 6], 60, 1), all);
    assert!(bindings.of(&name("b.example")).is_none());
    record(&mut bindings, "b.example", &[1], 60, 1).unwrap();
    record(&mut bindings, "c.example", &[1, 2], 60, 1).unwrap();
    assert_eq!(record(&mut bindings, "d.example", &[1], 60, 1), Err(LimitReached::Names { limit: 3 }));
    assert_eq!(
        record(&mut bindings, "c.example", &[2, 3], 60, 1).map(|_| ()),
        Ok(()),
        "a known name needs no room"
    );
}

#[test]
fn what_lapsed_makes_room_and_is_remembered_otherwise() {
    // Q8, G8
    let mut bindings = bindings();
    record(&mut bindings, "a.example", &[1, 2, 3, 4], 60, 0).unwrap();
    bindings.expire(at(100));
    assert_eq!(bindings.names_of(address(1)).count(), 1, "remembered for denials");
    record(&mut bindings, "b.example", &[5, 6], 60, 100).unwrap();
    assert!(bindings.of(&name("a.example")).is_none());
    assert_eq!(bindings.addresses().collect::<Vec<_>>(), [address(5), address(6)]);
    bindings.expire(at(170 + REMEMBERED.as_secs()));
    assert_eq!((bindings.iter().count(), bindings.addresses().count()), (0, 0));
}

#[test]
fn frozen_expiry_goes_on_with_the_grace() {
    // F1
    let mut bindings = bindings();
    record(&mut bindings, "early.example", &[1], 10, 0).unwrap();
    record(&mut bindings, "during.example", &[2], 60, 0).unwrap();
    record(&mut bindings, "late.example", &[3], 600, 0).unwrap();
    assert!(bindings.resume(at(50), at(300)));
    let all = ["early.example", "during.example", "late.example"];
    assert_eq!(
        all.map(|who| expiry(&bindings, who, 1 + all.iter().position(|w| *w == who).unwrap() as u8)),
        [at(20), at(310), at(610)]
    );
    assert!(!bindings.resume(at(300), at(300)));
}

#[test]
fn stored_and_restored() {
    let mut before = bindings();
    before
        .record(&name("a.example"), &[name("c.example")], &[(address(1), seconds(60))], seconds(10), at(1))
        .unwrap();
    record(&mut before, "b.example", &[1, 2], 60, 0).unwrap();
    let stored: Vec<Binding> =
        serde_json::from_str(&serde_json::to_string(&before.iter().collect::<Vec<_>>()).unwrap()).unwrap();
    let mut after = bindings();
    record(&mut after, "b.example", &[2], 600, 0).unwrap();
    stored.iter().for_each(|binding| after.restore(binding));
    assert_eq!(after.of(&name("a.example")), before.of(&name("a.example")));
    assert_eq!((expiry(&after, "b.example", 1), expiry(&after, "b.example", 2)), (at(70), at(610)));
    assert_eq!(after.names_of(address(1)).count(), 2);
}

#[test]
fn an_answer_without_addresses_binds_nothing() {
    let mut bindings = bindings();
    assert_eq!(record(&mut bindings, "a.example", &[], 60, 7), Ok(at(7)));
    assert_eq!(bindings.iter().count(), 0);
}

#[test]
fn one_address_named_twice_counts_once_with_the_longer_ttl() {
    let mut bindings = bindings();
    let twice = [(address(1), seconds(60)), ("::ffff:198.51.100.1".parse().unwrap(), seconds(90))];
    assert_eq!(bindings.record(&name("a.example"), &[], &twice, seconds(10), at(0)), Ok(at(100)));
    assert_eq!(bindings.addresses().count(), 1);
}

// A revoked address is lapsed, and neither its flows, nor the end of a freeze, nor a restart's file bring it back
#[test]
fn what_was_revoked_comes_back_by_an_answer_alone() {
    let mut bindings = bindings();
    record(&mut bindings, "a.example", &[1, 2], 60, 100).unwrap();
    record(&mut bindings, "b.example", &[1], 60, 100).unwrap();
    let stays = BTreeSet::from([address(2)]);
    assert_eq!(bindings.revoke(&name("a.example"), &stays, at(120)), [address(1)]);
    assert_eq!(bindings.revoke(&name("a.example"), &stays, at(121)), [] as [IpAddr; 0]);
    assert_eq!(bindings.revoke(&name("c.example"), &stays, at(120)), [] as [IpAddr; 0]);
    let lease = |bindings: &Bindings, who: &str, last| {
        *bindings.of(&name(who)).unwrap().lease(address(last)).unwrap()
    };
    let revoked = lease(&bindings, "a.example", 1);
    assert!(revoked.is_revoked() && !revoked.is_live(at(120)) && revoked.kernel_expiry() == at(0));
    assert!(
        lease(&bindings, "a.example", 2).is_live(at(165))
            && lease(&bindings, "b.example", 1).is_live(at(165))
    );
    // A flow that was used before, and one that lives on.
    bindings.touch(address(1), at(119));
    bindings.touch(address(1), at(150));
    bindings.resume(at(119), at(160));
    assert_eq!(lease(&bindings, "a.example", 1), revoked);
    record(&mut bindings, "a.example", &[1], 5, 160).unwrap();
    assert_eq!(
        (expiry(&bindings, "a.example", 1), lease(&bindings, "a.example", 1).is_revoked()),
        (at(175), false)
    );
}
