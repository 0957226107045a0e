//! Who is talking to a UDP port: not too many at a time, and each until it has been silent for a while. Pure: times are
//! given, as counted from any beginning.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

/// Clients at a time.
const MOST: usize = 256;

/// How long a client may be silent, and not be answered.
const SILENCE: Duration = Duration::from_mins(1);

/// What is kept for each client.
#[derive(Debug)]
pub(super) struct Sessions<S>(HashMap<SocketAddr, (S, Duration)>);

impl<S> Default for Sessions<S> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<S> Sessions<S> {
    /// Something was said to or by a client. Gives what is kept for it.
    pub(super) fn touch(&mut self, client: SocketAddr, now: Duration) -> Option<&S> {
        let (session, last) = self.0.get_mut(&client)?;
        *last = now;
        Some(session)
    }

    /// Begins a session, in the place of the client's earlier one, or, where there are too many, of the one that was silent longest.
    pub(super) fn begin(&mut self, client: SocketAddr, session: S, now: Duration) {
        if self.0.len() >= MOST && !self.0.contains_key(&client) {
            let oldest = self.0.iter().min_by_key(|(_, (_, last))| *last).map(|(client, _)| *client);
            oldest.and_then(|oldest| self.0.remove(&oldest));
        }
        self.0.insert(client, (session, now));
    }

    /// Ends the sessions in which nothing was said for too long.
    pub(super) fn end(&mut self, now: Duration) {
        self.0.retain(|_, (_, last)| *last + SILENCE > now);
    }

    /// When the next session ends, if nothing is said.
    pub(super) fn next_end(&self) -> Option<Duration> {
        self.0.values().map(|(_, last)| *last + SILENCE).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn client(number: u16) -> SocketAddr {
        ([0, 0, 0, 0, 0, 0, 0, 1], number).into()
    }

    fn kept(sessions: &Sessions<u16>) -> Vec<u16> {
        let mut kept: Vec<u16> = sessions.0.values().map(|(session, _)| *session).collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn a_session_ends_a_minute_after_the_last_word() {
        let mut sessions = Sessions::default();
        sessions.begin(client(1), 1, at(10));
        sessions.begin(client(2), 2, at(11));
        assert_eq!(sessions.touch(client(1), at(40)), Some(&1));

        assert_eq!(sessions.next_end(), Some(at(71)));
        sessions.end(at(70));
        assert_eq!(kept(&sessions), [1, 2]);
        sessions.end(at(71));
        assert_eq!(kept(&sessions), [1]);
        sessions.end(at(100));
        assert_eq!((kept(&sessions), sessions.next_end()), (vec![], None));
    }

    #[test]
    fn where_there_are_too_many_the_most_silent_goes() {
        let mut sessions = Sessions::default();
        let most = u16::try_from(MOST).unwrap();
        for number in 1..=most {
            sessions.begin(client(number), number, Duration::from_millis(number.into()));
        }
        sessions.touch(client(1), at(1));

        sessions.begin(client(most), most, at(2)); // anew: no other need go
        assert_eq!(kept(&sessions), (1..=most).collect::<Vec<_>>());
        sessions.begin(client(most + 1), most + 1, at(2));
        let expected: Vec<_> = (1..=most + 1).filter(|number| *number != 2).collect();
        assert_eq!(kept(&sessions), expected);
    }
}
