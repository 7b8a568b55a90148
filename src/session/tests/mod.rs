//! The session as a machine explores it: every phase and event, and long random lives.

mod greetings;
mod lives;
mod losses;
mod networks;
mod stage;
mod storage;
mod stories;
mod table;
mod ways;
