//! How far event times lie behind their arrival, and what delay of the watermark that asks for.

/// Delays that a person would write; a measured one is rounded up to the next of them. Seconds, with their words.
const DELAYS: [(i64, &str); 18] = [
    (1, "1 second"),
    (2, "2 seconds"),
    (5, "5 seconds"),
    (10, "10 seconds"),
    (15, "15 seconds"),
    (30, "30 seconds"),
    (60, "1 minute"),
    (120, "2 minutes"),
    (300, "5 minutes"),
    (600, "10 minutes"),
    (900, "15 minutes"),
    (1_800, "30 minutes"),
    (3_600, "1 hour"),
    (7_200, "2 hours"),
    (21_600, "6 hours"),
    (43_200, "12 hours"),
    (86_400, "1 day"),
    (604_800, "7 days"),
];

/// Beyond it readings are no news but history that is played again: how far they are out of order is measured then.
const NEWS_US: i64 = 86_400_000_000;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lateness {
    /// Of arrival less event time: the middle one, one of which 99 % are not greater, and the greatest. Microseconds.
    pub(super) p50_us: i64,
    /// See `p50_us`.
    pub(super) p99_us: i64,
    /// See `p50_us`.
    pub(super) max_us: i64,
    /// How far the first of them is ahead of its arrival; 0 if none is.
    pub(super) ahead_us: i64,
    /// Whether the readings are old, so that the delay is that of their disorder.
    pub(super) is_history: bool,
    /// The delay that 99 % of the readings keep, as it is written.
    pub(super) delay: &'static str,
}

impl Lateness {
    /// Measures event times against arrivals, both in microseconds and in the order of arrival; `None` without any.
    pub(super) fn measure(times: &[(i64, i64)]) -> Option<Lateness> {
        let late: Vec<i64> = times.iter().map(|(event_us, arrival_us)| arrival_us - event_us).collect();
        let (p50_us, p99_us, max_us) = (percentile(&late, 50)?, percentile(&late, 99)?, percentile(&late, 100)?);
        let is_history = p50_us > NEWS_US;
        let behind_us = if is_history { percentile(&disorder(times), 99)? } else { p99_us };
        let last = DELAYS[DELAYS.len() - 1];
        let (_, delay) = DELAYS.into_iter().find(|(seconds, _)| seconds * 1_000_000 >= behind_us).unwrap_or(last);
        let ahead_us = late.iter().copied().min().map_or(0, |least| (-least).max(0));
        Some(Lateness { p50_us, p99_us, max_us, ahead_us, is_history, delay })
    }
}

/// How far each event time is behind the greatest before it.
fn disorder(times: &[(i64, i64)]) -> Vec<i64> {
    let mut greatest = i64::MIN;
    let behind = |(event_us, _): &(i64, i64)| {
        greatest = greatest.max(*event_us);
        greatest - event_us
    };
    times.iter().map(behind).collect()
}

fn percentile(values: &[i64], percent: usize) -> Option<i64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn delay(late_us: impl IntoIterator<Item = i64>) -> &'static str {
        let times = late_us.into_iter().enumerate();
        let times: Vec<(i64, i64)> = times.map(|(at, late)| (at as i64 * SECOND - late, at as i64 * SECOND)).collect();
        Lateness::measure(&times).expect("some").delay
    }

    #[test]
    fn the_delay_is_what_99_of_100_keep_rounded_up() {
        assert_eq!(delay([100_000]), "1 second");
        assert_eq!(delay([SECOND, SECOND + 1]), "2 seconds");
        assert_eq!(delay((0..100).map(|at| if at == 50 { 3_000 * SECOND } else { 4 * SECOND })), "5 seconds");
        assert_eq!(delay((0..100).map(|at| if at < 2 { 50 * SECOND } else { 0 })), "1 minute");
        assert_eq!(delay([-5 * SECOND]), "1 second");
        assert_eq!(Lateness::measure(&[]), None);
    }

    #[test]
    fn history_is_measured_by_its_disorder() {
        let year = 365 * 86_400 * SECOND;
        assert_eq!(delay((0..10).map(|_| year)), "1 second");
        let times: Vec<(i64, i64)> =
            [0, 10, 3, 11].map(|second| (second * SECOND, year + second * SECOND)).into_iter().collect();
        let lateness = Lateness::measure(&times).expect("some");
        assert_eq!((lateness.delay, lateness.is_history), ("10 seconds", true));
    }
}
