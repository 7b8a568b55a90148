//! The vendors, in the documented order in which a device's channels are tried; one line each.

/// Hands the list to the macro `$then`: the folder's name, and the vendor's.
macro_rules! each_vendor {
    ($then:ident) => {
        $then! {
            xiaomi Xiaomi
            huawei Huawei
            meizu Meizu
            oppo Oppo
            vivo Vivo
            honor Honor
            apns Apns
            fcm Fcm
        }
    };
}

/// A maker that became two, the former name first: its old phones bear either name and belong to the first.
pub const PARTED: (super::Vendor, super::Vendor) = (super::Vendor::Huawei, super::Vendor::Honor);

#[cfg(feature = "lab")]
pub(crate) use each_vendor;
