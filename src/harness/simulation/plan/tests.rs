use super::*;
use crate::harness::fixtures::Random;

#[test]
fn what_is_read_is_shown_as_it_was_written() {
    for text in ["clean@10m", "reboot@20m:50%", "sync@90s:1%", "sync@0s"] {
        assert_eq!(text.parse::<Storm>().expect(text).to_string(), text);
    }
    for text in ["20m:5m", "1500ms:2h", "1d:1s"] {
        assert_eq!(text.parse::<Outage>().expect(text).to_string(), text);
    }
    for text in ["1/1", "3/8"] {
        assert_eq!(text.parse::<Shard>().expect(text).to_string(), text);
    }
    for text in ["2026.4", "2026.4=70,2025.7=30"] {
        assert_eq!(text.parse::<Mix<String>>().expect(text).to_string(), text);
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for text in ["clean", "clean@", "clean@10", "hail@1m", "sync@1m:0%", "sync@1m:101%"] {
        assert!(text.parse::<Storm>().is_err(), "{text}");
    }
    for text in ["20m", "20m:0s", ":", "5:5"] {
        assert!(text.parse::<Outage>().is_err(), "{text}");
    }
    for text in ["0/1", "2/1", "1", "a/b", "-1/2"] {
        assert!(text.parse::<Shard>().is_err(), "{text}");
    }
    for text in ["", "a=0", "a=x", "a,,b", "a=1,"] {
        assert!(text.parse::<Mix<String>>().is_err(), "{text}");
    }
    assert!("x=1".parse::<Mix<u32>>().is_err());
    for text in ["", "5", "s", "5 s", "-5s", "5sec", "99999999999999999999s"] {
        assert_eq!(parse_duration(text), None, "{text}");
    }
}

#[test]
fn a_plan_that_cannot_be_carried_out_says_what_is_wrong() {
    let plan = || SimulationPlan::new("http://127.0.0.1/".to_owned());
    assert_eq!(plan().check(), Ok(()));
    let refused = |change: fn(&mut SimulationPlan)| {
        let mut plan = plan();
        change(&mut plan);
        plan.check().expect_err("refused").to_string()
    };
    assert!(refused(|p| p.hosts = 0).contains("0 hosts"));
    assert!(refused(|p| p.shard = Shard { index: 1, of: 101 }).contains("shard 1/101"));
    assert!(refused(|p| p.ramp = Duration::from_mins(6)).contains("the ramp of 6m"));
    assert!(refused(|p| p.interval_secs = Some(59)).contains("every 59 s"));
    let many = |p: &mut SimulationPlan| {
        p.groups = (0..=MAX_GROUPS).map(|n| HostGroup::new(n.to_string(), 1)).collect();
    };
    assert!(refused(many).contains("101 groups of hosts are too many; the maximum is 100"));
    assert!(refused(|p| p.speed = 0).contains("speed of 0"));
    assert!(refused(|p| p.encodings = Mix::only("br".to_owned())).contains("\"br\""));
    let late = "clean@5m".parse().expect("a storm");
    let mut plan = plan();
    plan.storms = vec![late];
    assert!(plan.check().expect_err("refused").to_string().contains("at 5m"));
}

#[test]
fn a_simulation_too_short_for_a_sync_says_what_to_change() {
    let hint = |lasting: u64, ramp: u64, speed| {
        let (lasting, ramp) = (Duration::from_secs(lasting), Duration::from_secs(ramp));
        let plan = SimulationPlan { ramp, lasting, speed, ..SimulationPlan::new(String::new()) };
        plan.too_short().map(|short| (short.who(), short.to_string()))
    };
    let (who, why) = hint(3, 3, 1).expect("a hint");
    assert_eq!(who, "no host will sync");
    assert!(why.ends_with("the simulation ends after 3s: give --for 34s or more"), "{why}");
    let (who, why) = hint(60, 60, 1).expect("a hint");
    assert_eq!(who, "the hosts that start last will not sync");
    assert!(why.contains("the last host starts after 1m") && why.contains("--for 91s"), "{why}");
    assert_eq!((hint(91, 60, 1), hint(3, 1, 100)), (None, None));
}

/// Together the shards play every host once, and each one ramps up alike.
#[test]
fn shards_share_the_hosts_out() {
    let mut plan = SimulationPlan::new(String::new());
    plan.hosts = 10;
    let mut all = Vec::new();
    for index in 1..=3 {
        plan.shard = Shard { index, of: 3 };
        let own: Vec<_> = plan.own_hosts().collect();
        assert!(own.windows(2).all(|pair| pair[1] - pair[0] == 3), "{own:?}");
        all.extend(own);
    }
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

#[test]
fn a_mix_is_picked_from_by_weight() {
    let mix: Mix<u32> = "1=75,2=25".parse().expect("a mix");
    let mut random = Random::new(7);
    let ones = (0..10_000).filter(|_| mix.pick(&mut random) == Some(&1)).count();
    assert!((7200..7800).contains(&ones), "{ones}");
}
