//! Quantities as Kubernetes writes them: `500m` of cpu, `512Mi` of memory.
//! <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>

/// Memory in bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is checked to be positive and `as` saturates"
)]
pub(super) fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, f64); 12] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("k", 1e3),
        ("K", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("m", 1e-3),
        ("B", 1.0),
        ("", 1.0),
    ];
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let value = number.trim().parse::<f64>().ok()? * factor;
    (value >= 1.0).then_some(value as u64)
}

/// Cpu in cores.
pub(super) fn cores(text: &str) -> Option<f64> {
    let value = match text.strip_suffix('m') {
        Some(thousandths) => thousandths.parse::<f64>().ok()? / 1000.0,
        None => text.parse::<f64>().ok()?,
    };
    (value > 0.0 && value.is_finite()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_binary_and_decimal_units() {
        assert_eq!(bytes("512Mi"), Some(512 << 20));
        assert_eq!(bytes("1.5G"), Some(1_500_000_000));
        assert_eq!(bytes("1000"), Some(1000));
        assert_eq!(bytes("lots"), None);
        assert_eq!(cores("500m"), Some(0.5));
        assert_eq!(cores("2"), Some(2.0));
        assert_eq!(cores("-1"), None);
    }
}
