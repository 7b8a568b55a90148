//! Every number of the keep-alive, with its unit and its reason.

use std::time::Duration;

/// Shortest heartbeat interval. Below it the radio hardly sleeps; mobile networks that need less
/// than this cut nearly everything.
pub const HEARTBEAT_FLOOR: Duration = Duration::from_secs(20);
/// Longest heartbeat interval unless configured lower (a load balancer's idle limit) or higher. A limit
/// that falls silently is found by the next ping: this is the longest silence it can cost.
pub const HEARTBEAT_CEILING: Duration = Duration::from_secs(480);
/// Longest heartbeat interval while power is short: below the half hour after which many mobile networks
/// forget a TCP connection.
pub const LOW_POWER_CEILING: Duration = Duration::from_secs(1680);
/// While power is short, pings fall on multiples of this since boot, where other sleepers wake too.
pub const LOW_POWER_GRID: Duration = Duration::from_secs(60);
/// While power is short, work that can wait joins a ping that comes within this.
pub const LOW_POWER_SLACK: Duration = Duration::from_secs(300);
/// A battery at this charge or below is short of power, in percent (where Android offers its saver).
pub const LOW_POWER_PERCENT: u8 = 15;
/// Interval on a network nothing is known of: holds on 5G/LTE networks that cut after 60 s.
pub const HEARTBEAT_START: Duration = Duration::from_secs(45);

/// A pong may take this long at least: TCP needs time to repair one lost segment.
pub const PONG_MIN: Duration = Duration::from_secs(8);
/// ... and this many smoothed round trips ...
pub const PONG_ROUND_TRIPS: u32 = 4;
/// ... but never longer than this.
pub const PONG_MAX: Duration = Duration::from_secs(20);
/// The deadline of a ping sent because the network changed counts as many round trips, but at least this:
/// one lost segment is repaired. With the half second in which notices are gathered, a dead link is found
/// within two ...
pub const PROBE_MIN: Duration = Duration::from_millis(1500);
/// ... and on a slow path within three.
pub const PROBE_MAX: Duration = Duration::from_millis(2500);
/// A write the peer's full buffers hold up longer than this ends the connection.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// DNS, TCP, TLS and CONNACK of one attempt together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// First pause between attempts.
pub const RECONNECT_BASE: Duration = Duration::from_secs(1);
/// Longest pause between attempts for causes on this side or on the way.
pub const RECONNECT_CAP: Duration = Duration::from_secs(300);
/// Spread of the first attempt after a link that had been stable: the whole fleet may have lost it.
pub const AT_ONCE_SPREAD: Duration = Duration::from_secs(2);
/// The same where this device's own network came, changed or woke: only its neighbours share that.
pub const NETWORK_SPREAD: Duration = Duration::from_millis(150);
/// A link's break is put down to a change of the network that is noticed so soon after it: the kernel's notice
/// and the socket's error come in either order, and a radio takes seconds to believe that its network is out
/// of reach.
pub const EXCUSED_WITHIN: Duration = Duration::from_secs(10);
/// First and longest pause for causes on the server's side: it asked for quiet.
pub const SLOW_BASE: Duration = Duration::from_secs(30);
/// Least pause after a refusal that may be a mistake: of credentials that worked before, or a takeover.
pub const PATIENT_BASE: Duration = Duration::from_secs(60);
pub const SLOW_CAP: Duration = Duration::from_secs(1800);
/// Pauses while a network that has just come answers in the server's place: a person is signing in at its portal,
/// which takes minutes, and waits for this device after it.
pub const PORTAL_BASE: Duration = Duration::from_secs(5);
pub const PORTAL_CAP: Duration = Duration::from_secs(30);
/// ... and for how long after the network came.
pub const PORTAL_TIME: Duration = Duration::from_secs(600);
/// A link that lived this long proves the server healthy; only then the pauses start over.
pub const STABLE_AFTER: Duration = Duration::from_secs(60);
/// So many links in a row that came up and fell before they were stable point to the server.
pub const FLAPS_UNTIL_SLOW: u32 = 3;

/// Networks whose records are kept; the one unused longest goes first.
pub const MAX_RECORDS: usize = 32;
/// The search ends when the idle times that worked and failed are this close, as a ratio. With the
/// margin below the found value, a settled heartbeat is within 15 % of the best possible one.
pub const SEARCH_RESOLUTION: f64 = 1.1;
/// The unit in which a settled value's life is counted; it is first doubted after seven of these.
pub const RETEST_AFTER: Duration = Duration::from_secs(86_400);
/// ... and at the latest after this many.
pub const RETEST_AT_MOST: u32 = 56;
