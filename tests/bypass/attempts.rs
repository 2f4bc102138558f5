//! Attempts that must come to nothing.

use nameward_test_support::privileged;

use crate::world::World;

/// One frame, and why it does not pass.
pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    pub(crate) frame: Vec<u8>,
    pub(crate) reason: &'static str,
}

/// An attempt.
pub(crate) fn attempt(what: &'static str, frame: Vec<u8>, reason: &'static str) -> Attempt {
    Attempt { what, frame, reason }
}

/// Each attempt arrives where nobody guards; where somebody does, none arrives, each is counted under its reason, and
/// each reason makes an event.
#[track_caller]
pub(crate) fn assert_denied(attempts: &[Attempt]) {
    if !privileged() {
        return;
    }
    let world = World::new();
    let frames: Vec<Vec<u8>> = attempts.iter().map(|attempt| attempt.frame.clone()).collect();
    for (attempt, arrived) in attempts.iter().zip(world.send(&frames)) {
        assert!(arrived, "{}: it does not even arrive where nobody guards", attempt.what);
    }
    world.enforce(async |mut guard| {
        guard.start();
        for Attempt { what, frame, reason } in attempts {
            let before = guard.count(reason);
            assert_eq!(world.send(std::slice::from_ref(frame)), [false], "{what}: it arrived");
            let counters = guard.counters();
            assert_eq!(guard.count(reason), before + 1, "{what}: not counted as {reason}: {counters}");
        }
        let mut reasons: Vec<&str> = attempts.iter().map(|attempt| attempt.reason).collect();
        reasons.sort_unstable();
        reasons.dedup();
        let mut told: Vec<String> = Vec::new();
        while told.len() < reasons.len() {
            let fresh = |reason: &str| reasons.contains(&reason) && !told.iter().any(|known| known == reason);
            let decision = guard.denied(|one| fresh(&one.reason)).await;
            told.push(decision.reason.to_string());
        }
    });
}
