//! `strftime_now`: today's date for templates that print it, in UTC.
//!
//! A text with today's date makes tomorrow's run another run; templates take `date_string` from `data.chat_template_kwargs` instead.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Days since 1970.
pub(crate) fn today() -> u64 {
    now() / 86_400
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
];

/// C's `strftime` for the directives that templates use; others stay as they are.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let days = seconds / 86_400;
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let plain = directive == Some('-');
        if plain {
            directive = chars.next();
        }
        let number = |n: u64| if plain { n.to_string() } else { format!("{n:02}") };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => number(year % 100),
            Some('m') => number(month),
            Some('B') => month_name.into(),
            Some('b') => month_name[..3].into(),
            Some('d') => number(day),
            Some('e') => format!("{day:2}"),
            Some('A') => day_name.into(),
            Some('a') => day_name[..3].into(),
            Some('H') => number(hour),
            Some('I') => number(hour12),
            Some('M') => number(minute),
            Some('S') => number(second),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('%') => "%".into(),
            Some(other) => format!("%{}{other}", if plain { "-" } else { "" }),
            None => "%".into(),
        });
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153; // March is 0
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_c_prints_them() {
        // `TZ=UTC date -d @SECONDS +FORMAT`
        assert_eq!(strftime("%d %b %Y", 1_721_952_000), "26 Jul 2024");
        assert_eq!(
            strftime("%A, %B %-d, %Y at %I:%M:%S %p", 1_709_210_096),
            "Thursday, February 29, 2024 at 12:34:56 PM"
        );
        assert_eq!(
            strftime("%F %T %y|%e|%a|%H|%j%%", 951_782_399),
            "2000-02-28 23:59:59 00|28|Mon|23|%j%"
        );
        assert_eq!(strftime("%F %p %I", 0), "1970-01-01 AM 12");
        assert_eq!(strftime("50%", 0), "50%");
    }
}
