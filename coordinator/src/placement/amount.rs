//! Amounts for people: `12,000 slots`, `13.5 cpu cores`, `18 GiB of memory`.

use std::fmt;

use super::room::Capacity;

/// So much of something workers have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Room for instances.
    Slots(u64),
    /// Cpu, in thousandths of a core.
    CpuMilli(u64),
    /// Memory in bytes.
    MemoryBytes(u64),
}

impl Amount {
    pub(super) fn of(capacity: &Total) -> [Self; 3] {
        [
            Self::Slots(capacity.slots),
            Self::CpuMilli(capacity.cpu_milli),
            Self::MemoryBytes(capacity.memory_bytes),
        ]
    }

    pub(super) fn number(self) -> u64 {
        match self {
            Self::Slots(number) | Self::CpuMilli(number) | Self::MemoryBytes(number) => number,
        }
    }

    /// The number without its unit.
    pub(super) fn bare(self) -> String {
        match self {
            Self::Slots(slots) => thousands(slots),
            Self::CpuMilli(milli) => decimal(milli, 1000),
            Self::MemoryBytes(bytes) => format!("{} GiB", decimal(bytes, 1 << 30)),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slots(1) => f.write_str("1 slot"),
            Self::Slots(_) => write!(f, "{} slots", self.bare()),
            Self::CpuMilli(1000) => f.write_str("1 cpu core"),
            Self::CpuMilli(_) => write!(f, "{} cpu cores", self.bare()),
            Self::MemoryBytes(_) => write!(f, "{} of memory", self.bare()),
        }
    }
}

/// A number with separators: `12,000`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of units with at most two digits after the point.
fn decimal(number: u64, unit: u64) -> String {
    let hundredths = (number % unit) * 100 / unit;
    let whole = thousands(number / unit);
    match hundredths {
        0 => whole,
        tens if tens % 10 == 0 => format!("{whole}.{}", tens / 10),
        other => format!("{whole}.{other:02}"),
    }
}

/// More than any one worker has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Total {
    slots: u64,
    cpu_milli: u64,
    memory_bytes: u64,
}

impl Total {
    pub(super) fn of(capacities: impl Iterator<Item = Capacity>) -> Self {
        capacities.fold(Self::default(), |sum, one| Self {
            slots: sum.slots.saturating_add(one.slots.into()),
            cpu_milli: sum.cpu_milli.saturating_add(one.cpu_milli),
            memory_bytes: sum.memory_bytes.saturating_add(one.memory_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_separators_and_units() {
        let shown = [
            Amount::Slots(1),
            Amount::Slots(1_234_567),
            Amount::CpuMilli(1_000),
            Amount::CpuMilli(13_500),
            Amount::CpuMilli(1_050),
            Amount::MemoryBytes(18 << 30),
        ];
        assert_eq!(
            shown.map(|amount| amount.to_string()),
            [
                "1 slot",
                "1,234,567 slots",
                "1 cpu core",
                "13.5 cpu cores",
                "1.05 cpu cores",
                "18 GiB of memory"
            ]
        );
        assert_eq!([0, 999, 1_000].map(thousands), ["0", "999", "1,000"]);
    }
}
