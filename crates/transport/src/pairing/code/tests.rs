//! The key exchange under attack: other codes, other channels, other roles, changed and replayed messages.

use proptest::prelude::*;

use super::*;

fn binding() -> Binding {
    Binding {
        node: NodeId::new("12D3KooWnode").unwrap(),
        coordinator: NodeId::new("12D3KooWcoordinator").unwrap(),
        exporter: [7; 32],
        name: "attic".into(),
    }
}

fn code(number: u32) -> ShortCode {
    ShortCode(number)
}

/// Runs an exchange: whether the coordinator admits, and whether the device then believes it.
fn run(at_node: (&ShortCode, &Binding), at_coordinator: (&ShortCode, &Binding)) -> (bool, bool) {
    let guest = Guest::start(at_node.0, at_node.1.clone()).unwrap();
    let (host, answer) =
        Host::answer(at_coordinator.0, at_coordinator.1, &guest.element()).unwrap();
    let (proof, waiting) = guest.confirm(&answer).unwrap();
    // A coordinator that lies shows what it has.
    let shown = host.check(&proof).unwrap_or(host.both.of_coordinator);
    (host.check(&proof).is_some(), waiting.is_proven(&shown))
}

#[test]
fn the_same_code_on_one_channel_convinces_both_sides() {
    assert_eq!(
        run((&code(384_219), &binding()), (&code(384_219), &binding())),
        (true, true)
    );
}

#[test]
fn whatever_differs_convinces_neither_side() {
    let other = |change: fn(&mut Binding)| {
        let mut other = binding();
        change(&mut other);
        other
    };
    let cases = [
        other(|b| b.node = NodeId::new("12D3KooWother").unwrap()),
        other(|b| b.coordinator = NodeId::new("12D3KooWother").unwrap()),
        other(|b| std::mem::swap(&mut b.node, &mut b.coordinator)),
        other(|b| b.exporter[31] ^= 1),
        other(|b| b.name = "cellar".into()),
        // Parts that run into each other the same way.
        other(|b| b.name = String::new()),
    ];
    for (at, other) in cases.iter().enumerate() {
        assert_eq!(
            run((&code(1), &binding()), (&code(1), other)),
            (false, false),
            "case {at}"
        );
    }
}

#[test]
fn somebody_between_with_a_guess_on_each_side_convinces_neither() {
    let (true_code, guess) = (code(384_219), code(384_218));
    let between = NodeId::new("12D3KooWbetween").unwrap();
    let towards_node = Binding {
        coordinator: between.clone(),
        exporter: [1; 32],
        ..binding()
    };
    let towards_coordinator = Binding {
        node: between,
        exporter: [2; 32],
        ..binding()
    };
    // With guesses of its own on both sides it convinces nobody.
    assert_eq!(
        run((&true_code, &towards_node), (&guess, &towards_node)),
        (false, false)
    );
    assert_eq!(
        run(
            (&guess, &towards_coordinator),
            (&true_code, &towards_coordinator)
        ),
        (false, false)
    );
    // Nor by passing on what the two say to each other.
    let guest = Guest::start(&true_code, towards_node).unwrap();
    let (host, answer) = Host::answer(&true_code, &towards_coordinator, &guest.element()).unwrap();
    let (proof, waiting) = guest.confirm(&answer).unwrap();
    assert!(host.check(&proof).is_none());
    assert!(!waiting.is_proven(&host.both.of_coordinator));
}

#[test]
fn a_recorded_exchange_is_worth_nothing_again() {
    let guest = Guest::start(&code(5), binding()).unwrap();
    let element = guest.element();
    let (host, answer) = Host::answer(&code(5), &binding(), &element).unwrap();
    let (proof, waiting) = guest.confirm(&answer).unwrap();
    let answered = host.check(&proof).unwrap();
    assert!(waiting.is_proven(&answered));
    // The device's messages to the coordinator again, even on the same channel: its half is a fresh one.
    let (again, _) = Host::answer(&code(5), &binding(), &element).unwrap();
    assert!(again.check(&proof).is_none());
    // The coordinator's messages to a device again.
    let guest = Guest::start(&code(5), binding()).unwrap();
    let (_, waiting) = guest.confirm(&answer).unwrap();
    assert!(!waiting.is_proven(&answered));
}

#[test]
fn a_mirror_convinces_nobody() {
    let guest = Guest::start(&code(5), binding()).unwrap();
    let own = guest.element();
    assert!(guest.confirm(&own).is_err(), "its own half came back");
    let guest = Guest::start(&code(5), binding()).unwrap();
    let (host, answer) = Host::answer(&code(5), &binding(), &guest.element()).unwrap();
    assert!(
        Host::answer(&code(5), &binding(), &answer).is_err(),
        "roles"
    );
    let (proof, waiting) = guest.confirm(&answer).unwrap();
    assert!(!waiting.is_proven(&proof), "its own proof came back");
    let coordinators = host.check(&proof).unwrap();
    assert!(host.check(&coordinators).is_none());
}

#[test]
fn halves_that_are_no_points_are_refused() {
    for bytes in [[0xff; ELEMENT_BYTES], [0; ELEMENT_BYTES]] {
        assert!(Host::answer(&code(5), &binding(), &bytes).is_err());
        let guest = Guest::start(&code(5), binding()).unwrap();
        assert!(guest.confirm(&bytes).is_err());
    }
}

#[test]
fn codes_are_read_as_people_write_them_and_never_logged() {
    for text in ["384-219", "384219", " 384 219\n"] {
        assert_eq!(text.parse(), Ok(code(384_219)), "{text}");
    }
    assert_eq!(code(7).reveal(), "000-007");
    for text in [
        "",
        "384",
        "384-21",
        "384-2199",
        "384--219",
        "38421x",
        "+84219",
        "384-+19",
        "３84-219",
    ] {
        let error = text.parse::<ShortCode>().unwrap_err().to_string();
        assert!(error.contains("six digits"), "{text}");
    }
    assert_eq!(format!("{:?}", code(384_219)), "ShortCode(masked)");
}

#[test]
fn a_commitment_holds_one_share_and_words_depend_on_everything() {
    assert_ne!(commitment(&[1; 32]), commitment(&[2; 32]));
    let words = binding().check(&[1; 32], &[2; 32]);
    let mut other = binding();
    other.exporter[0] ^= 1;
    assert_ne!(words, other.check(&[1; 32], &[2; 32]));
    assert_ne!(words, binding().check(&[2; 32], &[1; 32]));
    assert_eq!(words, binding().check(&[1; 32], &[2; 32]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_codes_agree_only_if_they_are_one(first in 0..CODES, second in 0..CODES) {
        let agreed = run((&code(first), &binding()), (&code(second), &binding()));
        prop_assert_eq!(agreed, (first == second, first == second));
        prop_assert_eq!(code(first).reveal().parse(), Ok(code(first)));
    }

    #[test]
    fn one_changed_bit_of_any_message_convinces_nobody(
        message in 0usize..3, byte in 0usize..ELEMENT_BYTES, bit in 0u8..8,
    ) {
        let flip = |bytes: &mut [u8]| {
            let at = byte % bytes.len();
            bytes[at] ^= 1 << bit;
        };
        let guest = Guest::start(&code(5), binding()).unwrap();
        let mut element = guest.element();
        if message == 0 { flip(&mut element); }
        let Ok((host, mut answer)) = Host::answer(&code(5), &binding(), &element) else { return Ok(()) };
        if message == 1 { flip(&mut answer); }
        let Ok((mut proof, _)) = guest.confirm(&answer) else { return Ok(()) };
        if message == 2 { flip(&mut proof); }
        prop_assert!(host.check(&proof).is_none());
    }
}
