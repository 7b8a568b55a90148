//! Google's services, on a device that no maker's ROM serves.

use super::super::rom::Rom;

/// Set by every build that Google has certified with its services, to their version.
pub(super) const ROM: Rom = Rom { fallback: &["ro.com.google.gmsversion"], ..Rom::NONE };
