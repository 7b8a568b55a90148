//! Apple's devices run no such agent: it is told by its configuration, or emulates one.

use super::super::rom::Rom;

pub(super) const ROM: Rom = Rom { names: &["apple"], ..Rom::NONE };
