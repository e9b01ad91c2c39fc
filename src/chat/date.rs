//! Python's `strftime` for the current date, in English.

use std::fmt::Write;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

/// A moment in the proleptic Gregorian calendar.
struct Moment {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    /// 0 is Sunday.
    weekday: i64,
    /// 1 to 366.
    day_of_year: i64,
    second_of_day: i64,
}

impl Moment {
    fn new(millis: f64) -> Self {
        // The cast saturates; ten thousand years either side of 1970 keep all that follows within i64.
        let seconds = ((millis / 1000.0).floor() as i64).clamp(-315_569_520_000, 315_569_520_000);
        let days = seconds.div_euclid(86_400);
        // Howard Hinnant, "chrono-compatible low-level date algorithms": years begin in March, eras have 400 of them.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let day_of_year = if month <= 2 { from_march - 305 } else { from_march + 60 + i64::from(leap) };
        Moment {
            year,
            month,
            day: from_march - (153 * month_from_march + 2) / 5 + 1,
            weekday: (days + 4).rem_euclid(7),
            day_of_year,
            second_of_day: seconds.rem_euclid(86_400),
        }
    }
}

/// `format` filled in for `millis` after 1970-01-01. Unknown directives stay as they are.
pub(super) fn strftime(format: &str, millis: f64) -> String {
    let mut out = String::new();
    compose(&mut out, &Moment::new(millis), format);
    out
}

fn compose(out: &mut String, now: &Moment, format: &str) {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let pad = directive != Some('-');
        if !pad {
            directive = chars.next();
        }
        let Some(directive) = directive else {
            out.push('%');
            break;
        };
        push(out, now, directive, pad);
    }
}

fn push(out: &mut String, now: &Moment, directive: char, pad: bool) {
    let weekday = DAYS.get(now.weekday as usize).copied().unwrap_or_default();
    let month = MONTHS.get(now.month as usize - 1).copied().unwrap_or_default();
    let (hour, minute, second) = (now.second_of_day / 3600, now.second_of_day / 60 % 60, now.second_of_day % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let mut number = |value: i64, width: usize| {
        // Writing to a string cannot fail.
        let _ = if pad { write!(out, "{value:0width$}") } else { write!(out, "{value}") };
    };
    match directive {
        'Y' => number(now.year, 4),
        'y' => number(now.year.rem_euclid(100), 2),
        'm' => number(now.month, 2),
        'd' => number(now.day, 2),
        'j' => number(now.day_of_year, 3),
        'H' => number(hour, 2),
        'I' => number(hour12, 2),
        'M' => number(minute, 2),
        'S' => number(second, 2),
        'w' => number(now.weekday, 1),
        'u' => number((now.weekday + 6) % 7 + 1, 1),
        // Weeks that begin with the first Sunday, or Monday, of the year.
        'U' => number((now.day_of_year + 6 - now.weekday) / 7, 2),
        'W' => number((now.day_of_year + 6 - (now.weekday + 6) % 7) / 7, 2),
        'k' => number_in_spaces(out, hour),
        'l' => number_in_spaces(out, hour12),
        'e' => number_in_spaces(out, now.day),
        'n' => out.push('\n'),
        't' => out.push('\t'),
        'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
        'A' => out.push_str(weekday),
        'a' => out.push_str(weekday.get(..3).unwrap_or_default()),
        'B' => out.push_str(month),
        'b' | 'h' => out.push_str(month.get(..3).unwrap_or_default()),
        'F' => compose(out, now, "%Y-%m-%d"),
        'T' | 'X' => compose(out, now, "%H:%M:%S"),
        'R' => compose(out, now, "%H:%M"),
        'r' => compose(out, now, "%I:%M:%S %p"),
        'D' | 'x' => compose(out, now, "%m/%d/%y"),
        'c' => compose(out, now, "%a %b %e %H:%M:%S %Y"),
        '%' => out.push('%'),
        other => {
            out.push('%');
            out.push(other);
        }
    }
}

fn number_in_spaces(out: &mut String, value: i64) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{value:>2}");
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates() {
        let day = 86_400_000.0;
        assert_eq!(strftime("%d %b %Y", 0.0), "01 Jan 1970");
        assert_eq!(
            strftime("%A, %B %-d, %Y; %j %F %T %I%p", 1_722_000_000_000.0),
            "Friday, July 26, 2024; 208 2024-07-26 13:20:00 01PM"
        );
        assert_eq!(strftime("%Y-%m-%d %j %a", 11_016.0 * day), "2000-02-29 060 Tue");
        assert_eq!(strftime("%F %j", 20_453.0 * day), "2025-12-31 365");
        assert_eq!(strftime("%F", -1.0), "1969-12-31");
        assert_eq!(strftime("100%% %q %", f64::NAN), "100% %q %");
    }
}
