//! When a rule counts: days, a start and an end, in a time zone (SEMANTICS R7).

use jiff::{
    Timestamp, ToSpan,
    civil::{Date, Time, Weekday},
    tz::TimeZone,
};

/// A window that comes again on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    days: Vec<Weekday>,
    start: Time,
    end: Time,
    time_zone: TimeZone,
}

/// Why a schedule cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not a day.
    #[error("`{0}` is not a day; write Mon, Tue, Wed, Thu, Fri, Sat or Sun")]
    Day(String),
    /// Not a time of day.
    #[error("`{0}` is not a time of day; write it as `06:00`")]
    Time(String),
    /// Not a time zone.
    #[error("`{0}` is not a time zone; write an IANA name like `Europe/Berlin` or `UTC`")]
    TimeZone(String),
}

impl Schedule {
    /// Reads the four fields of a policy. No days means every day. An end that is not after the start lies in
    /// the next day.
    ///
    /// # Errors
    /// [`ScheduleError`] for the first field that cannot be understood.
    pub fn parse<S: AsRef<str>>(
        days: &[S],
        start: &str,
        end: &str,
        zone: &str,
    ) -> Result<Self, ScheduleError> {
        let days = days.iter().map(|day| weekday(day.as_ref())).collect::<Result<_, _>>()?;
        let time_zone = TimeZone::get(zone).map_err(|_| ScheduleError::TimeZone(zone.to_owned()))?;
        Ok(Self { days, start: time(start)?, end: time(end)?, time_zone })
    }

    /// Whether `now` is inside a window.
    #[must_use]
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.windows(now, -1..=0).any(|(start, end)| start <= now && now < end)
    }

    /// The next start or end after `now`.
    #[must_use]
    pub fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        self.windows(now, -1..=8).flat_map(|(start, end)| [start, end]).filter(|at| *at > now).min()
    }

    /// The windows that begin on the days around `now`.
    fn windows(
        &self,
        now: Timestamp,
        days: std::ops::RangeInclusive<i64>,
    ) -> impl Iterator<Item = (Timestamp, Timestamp)> + '_ {
        let today = now.to_zoned_datetime(self.time_zone.clone()).date();
        days.filter_map(move |offset| {
            let day = today.checked_add(offset.days()).ok()?;
            let counts = self.days.is_empty() || self.days.contains(&day.weekday());
            if counts { self.window(day) } else { None }
        })
    }

    fn window(&self, day: Date) -> Option<(Timestamp, Timestamp)> {
        let last = if self.end > self.start { day } else { day.tomorrow().ok()? };
        // A time that a clock change skips or repeats is read as RFC 5545 says.
        let at = |day: Date, time| {
            Some(day.to_datetime(time).to_zoned_datetime(self.time_zone.clone()).ok()?.timestamp())
        };
        Some((at(day, self.start)?, at(last, self.end)?))
    }
}

fn weekday(text: &str) -> Result<Weekday, ScheduleError> {
    Ok(match text {
        "Mon" => Weekday::Monday,
        "Tue" => Weekday::Tuesday,
        "Wed" => Weekday::Wednesday,
        "Thu" => Weekday::Thursday,
        "Fri" => Weekday::Friday,
        "Sat" => Weekday::Saturday,
        "Sun" => Weekday::Sunday,
        _ => return Err(ScheduleError::Day(text.to_owned())),
    })
}

fn time(text: &str) -> Result<Time, ScheduleError> {
    let wrong = || ScheduleError::Time(text.to_owned());
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_digit());
    if !two_digits(hour) || !two_digits(minute) {
        return Err(wrong());
    }
    let number = |part: &str| part.parse().map_err(|_| wrong());
    Time::new(number(hour)?, number(minute)?, 0, 0).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn day_window_in_its_zone() {
        // R7; 2026-11-23 is a Monday, Berlin is UTC+1 then.
        let schedule = Schedule::parse(&["Mon", "Tue"], "06:00", "22:00", "Europe/Berlin").unwrap();
        assert!(!schedule.is_active(at("2026-11-23T04:59:59Z")));
        assert!(schedule.is_active(at("2026-11-23T05:00:00Z")));
        assert!(schedule.is_active(at("2026-11-23T20:59:59Z")));
        assert!(!schedule.is_active(at("2026-11-23T21:00:00Z")));
        assert!(!schedule.is_active(at("2026-11-25T12:00:00Z")));
        assert_eq!(schedule.next_change(at("2026-11-24T21:00:00Z")), Some(at("2026-11-30T05:00:00Z")));
        assert_eq!(schedule.next_change(at("2026-11-23T05:00:00Z")), Some(at("2026-11-23T21:00:00Z")));
    }

    #[test]
    fn end_before_start_runs_into_the_next_day() {
        // R7
        let night = Schedule::parse(&["Fri"], "22:00", "06:00", "UTC").unwrap();
        assert!(night.is_active(at("2026-11-27T23:00:00Z")) && night.is_active(at("2026-11-28T05:59:59Z")));
        assert!(!night.is_active(at("2026-11-28T06:00:00Z")) && !night.is_active(at("2026-11-27T05:00:00Z")));
        let whole_day = Schedule::parse::<&str>(&[], "00:00", "00:00", "UTC").unwrap();
        assert!(
            whole_day.is_active(at("2026-11-28T00:00:00Z"))
                && whole_day.is_active(at("2026-11-28T23:59:59Z"))
        );
    }

    #[test]
    fn clock_changes_move_the_window() {
        // R7; Berlin goes from UTC+1 to UTC+2 on 2027-03-28.
        let daily = Schedule::parse::<&str>(&[], "06:00", "07:00", "Europe/Berlin").unwrap();
        assert!(daily.is_active(at("2027-03-27T05:30:00Z")) && daily.is_active(at("2027-03-28T04:30:00Z")));
        assert!(!daily.is_active(at("2027-03-28T05:30:00Z")));
    }

    #[test]
    fn refusals_name_the_field() {
        let refused =
            |day: &str, start: &str, zone: &str| Schedule::parse(&[day], start, "07:00", zone).unwrap_err();
        assert_eq!(refused("Monday", "06:00", "UTC"), ScheduleError::Day("Monday".to_owned()));
        for time in ["6:00", "24:00", "06:60", "06", "+6:00"] {
            assert_eq!(refused("Mon", time, "UTC"), ScheduleError::Time(time.to_owned()));
        }
        assert_eq!(refused("Mon", "06:00", "Mars/Base"), ScheduleError::TimeZone("Mars/Base".to_owned()));
    }
}
