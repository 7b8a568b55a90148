//! Why a text can never be a device token, and the check that most vendors' shapes share.

use super::Vendor;

/// Why a text cannot be a device token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenShapeError {
    #[error("a {vendor} token has {min} to {max} characters, not {found}")]
    Length { vendor: Vendor, min: usize, max: usize, found: usize },
    #[error("a {vendor} token cannot hold the character {found:?}")]
    Character { vendor: Vendor, found: char },
    #[error("{0}")]
    Form(&'static str),
}

pub(super) fn within(
    vendor: Vendor,
    token: &str,
    (min, max): (usize, usize),
    allowed: impl Fn(char) -> bool,
) -> Result<(), TokenShapeError> {
    if let Some(found) = token.chars().find(|c| !allowed(*c)) {
        return Err(TokenShapeError::Character { vendor, found });
    }
    let found = token.len();
    if (min..=max).contains(&found) { Ok(()) } else { Err(TokenShapeError::Length { vendor, min, max, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_seen_in_public_samples_is_taken() {
        let hex32 = "0123456789abcdef0123456789abcdef";
        for (vendor, token) in [
            (Vendor::Xiaomi, "d//igwEhgBGCI2TG6lWqlK2rWf8dUBvBaNMf1/wOBJxXvUDGhs6FOSiZJrR4JmMR".to_owned()),
            (Vendor::Huawei, "A".repeat(130)),
            (Vendor::Huawei, format!("IQAAAA{}", "b-_".repeat(30))),
            (Vendor::Oppo, hex32.to_owned()),
            (Vendor::Oppo, format!("CN_{hex32}")),
            (Vendor::Oppo, format!("OPPO_CN_{hex32}")),
            (Vendor::Vivo, "15554239157791000000009".to_owned()),
            (Vendor::Vivo, format!("v2-{}", "C".repeat(56))),
            (Vendor::Meizu, format!("RA50{}", "a".repeat(41))),
            (Vendor::Apns, "ab".repeat(32)),
            (Vendor::Honor, "BAEAAAAAB.any/printable+token==".to_owned()),
        ] {
            assert_eq!(vendor.check_token(&token), Ok(()), "{vendor} {token}");
        }
    }

    #[test]
    fn what_can_never_be_a_token_is_refused_with_the_reason() {
        for (vendor, token) in [
            (Vendor::Xiaomi, ""),
            (Vendor::Xiaomi, "has a space in the middle of it"),
            (Vendor::Huawei, "short"),
            (Vendor::Honor, "line\nbreak-line-break-line"),
            (Vendor::Oppo, "CN_123"),
            (Vendor::Vivo, "1555423915779100000000x"),
            (Vendor::Vivo, "令牌"),
            (Vendor::Meizu, "---------------------------------------------"),
            (Vendor::Apns, "zz"),
        ] {
            let error = vendor.check_token(token).expect_err(token).to_string();
            assert!(error.contains(vendor.as_str()), "{error}");
        }
        assert!(Vendor::Apns.check_token(&"a".repeat(65)).is_err());
        assert!(Vendor::Xiaomi.check_token(&"a".repeat(256)).is_err());
    }

    #[test]
    fn a_vivo_certificate_is_named_by_two_ids() {
        assert!(Vendor::Vivo.check_certificate_name("10004#25509283").is_ok());
        assert!(Vendor::Vivo.check_certificate_name("10004").is_err());
        assert!(Vendor::Xiaomi.check_certificate_name("2882303761517").is_ok());
    }
}
