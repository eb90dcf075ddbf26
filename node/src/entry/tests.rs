//! Whose household, by what right: every case of what was found and what was said.

use super::*;

fn candidate(number: u8, code_open: bool) -> Candidate {
    Candidate {
        coordinator: NodeId::new(format!("12D3Koo{number}")).unwrap(),
        addresses: vec![SocketAddr::from(([10, 0, 0, number], 7411))],
        code_open,
    }
}

fn code() -> Option<Right> {
    Some(Right::Code("384-219".parse().unwrap()))
}

type Lines = Person<&'static [u8], Vec<u8>>;

fn person(lines: &'static str) -> Lines {
    Person {
        input: lines.as_bytes(),
        screen: Vec::new(),
    }
}

/// The household's number, or why there is none.
fn alone(found: Vec<Candidate>, right: Option<Right>) -> Result<String, Failure> {
    let decided = decide(found, right, Search::Network, None::<&mut Lines>);
    decided.map(|(chosen, _)| chosen.coordinator.to_string())
}

#[test]
fn what_stands_behind_join_is_a_code_or_a_url() {
    assert!(matches!(
        read_right(Some("384-219"), false),
        Ok(Some(Right::Code(_)))
    ));
    assert!(matches!(
        read_right(Some("384219"), false),
        Ok(Some(Right::Code(_)))
    ));
    assert!(matches!(read_right(None, true), Ok(Some(Right::Ask))));
    assert!(matches!(read_right(None, false), Ok(None)));
    for (word, expected) in [
        ("384-21", "six digits"),
        ("http://x", "not an invite"),
        ("hearth://", "cut short"),
    ] {
        let Err(Failure::Usage(text)) = read_right(Some(word), false) else {
            panic!("{word} was taken");
        };
        assert!(text.contains(expected), "{text}");
    }
    assert!(matches!(
        read_right(Some("384-219"), true),
        Err(Failure::Usage(_))
    ));
}

#[test]
fn a_code_goes_to_the_one_household_that_waits_for_one() {
    let found = || vec![candidate(1, false), candidate(2, true), candidate(3, false)];
    assert_eq!(alone(found(), code()).unwrap(), "12D3Koo2");
    // And to nobody where none waits, or where it is not clear which.
    let none = alone(vec![candidate(1, false)], code()).unwrap_err();
    assert!(matches!(none, Failure::Failed(_)) && none.to_string().contains("coordinator invite"));
    let two = vec![candidate(1, true), candidate(2, true)];
    let unclear = alone(two, code()).unwrap_err();
    let Failure::Usage(text) = unclear else {
        panic!("{unclear}");
    };
    let words = CheckWords::of_key(&candidate(1, true).coordinator).to_string();
    for part in ["--coordinator", "10.0.0.1:7411", "10.0.0.2:7411", &words] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_machine_that_asks_needs_one_household_or_a_person() {
    assert_eq!(
        alone(vec![candidate(1, false)], Some(Right::Ask)).unwrap(),
        "12D3Koo1"
    );
    let two = || vec![candidate(1, false), candidate(2, false)];
    assert!(matches!(
        alone(two(), Some(Right::Ask)),
        Err(Failure::Usage(_))
    ));
    let mut person = person("2\n");
    let decided = decide(two(), Some(Right::Ask), Search::Network, Some(&mut person));
    assert_eq!(decided.unwrap().0, candidate(2, false));
}

#[test]
fn without_an_argument_a_person_is_asked_and_a_script_is_told() {
    let found = || vec![candidate(1, false), candidate(2, true)];
    let told = alone(found(), None).unwrap_err();
    let Failure::Usage(text) = told else {
        panic!("{told}");
    };
    for part in [
        "coordinator invite",
        "node join CODE",
        "--ask",
        "10.0.0.1:7411",
    ] {
        assert!(text.contains(part), "{text}");
    }
    for (lines, expected, by_code) in [
        ("2\n384-219\n", 2, true),
        ("\n384219\n", 1, true),
        ("9\nsecond\n2\n12\nask\n", 2, false),
    ] {
        let mut person = person(lines);
        let (chosen, right) = decide(found(), None, Search::Network, Some(&mut person)).unwrap();
        assert_eq!(chosen.coordinator, candidate(expected, false).coordinator);
        assert_eq!(matches!(right, Right::Code(_)), by_code);
        let screen = String::from_utf8(person.screen).unwrap();
        let words = CheckWords::of_key(&chosen.coordinator).to_string();
        assert!(
            screen.contains(&words) && screen.contains("waits for a code"),
            "{screen}"
        );
    }
    for lines in ["", "x\ny\nz\n2\n", "1\n"] {
        let mut person = person(lines);
        let decided = decide(found(), None, Search::Network, Some(&mut person));
        assert!(matches!(decided, Err(Failure::Usage(_))), "{lines:?}");
    }
}

#[test]
fn a_household_that_answers_at_several_addresses_is_one() {
    let seen = |key: u8, place: u8, code_open| Found {
        coordinator: NodeId::new(format!("12D3Koo{key}")).unwrap(),
        address: SocketAddr::from(([10, 0, 0, place], 7411)),
        code_open,
    };
    let gathered = gather(vec![seen(1, 1, false), seen(2, 2, false), seen(1, 3, true)]);
    assert_eq!(gathered.len(), 2);
    assert_eq!(gathered[0].addresses.len(), 2);
    assert!(gathered[0].code_open && !gathered[1].code_open);
}

#[tokio::test]
async fn nothing_is_looked_for_where_the_owner_wants_no_multicast() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = find(dir.path(), None, Search::Off).await.unwrap_err();
    assert!(matches!(nowhere, Failure::Usage(_)), "{nowhere}");
    assert!(nowhere.to_string().contains("coordinator invite"));
}

#[tokio::test]
async fn a_member_goes_home_and_tries_the_named_place_first() {
    let dir = tempfile::tempdir().unwrap();
    let home = Household {
        coordinator: NodeId::new("12D3Koo1").unwrap(),
        addresses: vec!["10.0.0.1:7411".parse().unwrap()],
    };
    home.save(dir.path()).unwrap();
    let entry = find(dir.path(), None, Search::At("10.0.0.9:1"))
        .await
        .unwrap();
    assert!(matches!(entry.right, Right::Member));
    assert_eq!(entry.home.addresses[0].to_string(), "10.0.0.9:1");
    assert_eq!(entry.home.addresses.len(), 2);
    let wrong = find(dir.path(), None, Search::At("nowhere"))
        .await
        .unwrap_err();
    assert!(matches!(wrong, Failure::Usage(_)), "{wrong}");
}

#[test]
fn a_household_on_this_machine_is_not_offered_to_the_network() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    assert!(is_on_this_machine(&[at("127.0.0.1:7411")]));
    assert!(!is_on_this_machine(&[
        at("127.0.0.1:7411"),
        at("192.168.1.2:7411")
    ]));
    assert!(!is_on_this_machine(&[]));
}
