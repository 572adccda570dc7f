//! Requests that have names, so that a client may make them again over another connection.
//!
//! A client that has lost its connection cannot know what was done of what it asked for. It makes every request again
//! that was not answered, with the name it had, and the log knows which of them it has: on every worker alike, and
//! after a restart of the gateway, because the names are in the log.

use std::collections::{HashMap, VecDeque};

use groundswell_common::ids::InstanceId;
use groundswell_common::sync::RequestName;

/// Answers kept of a session: a client has at most so many requests open that append.
const ANSWERS: usize = 64;
/// Sessions kept of an instance; each life of a process in it has one.
const SESSIONS: usize = 16;

/// What is known of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was not made before.
    New,
    /// It was made, and this number is its answer.
    Answered(u64),
    /// It was made so long ago that its client must have had the answer.
    Forgotten,
}

#[derive(Debug)]
struct Session {
    name: u64,
    /// Numbers and answers, the oldest first.
    answers: VecDeque<(u64, u64)>,
}

/// The named requests of all instances of a run.
#[derive(Debug, Default)]
pub(crate) struct Requests(HashMap<u32, VecDeque<Session>>);

impl Requests {
    pub(crate) fn look_up(&self, instance: InstanceId, name: RequestName) -> Known {
        let sessions = self.0.get(&instance.0).into_iter().flatten();
        let Some(session) = sessions.into_iter().find(|known| known.name == name.session) else {
            return Known::New;
        };
        if session.answers.back().is_none_or(|(last, _)| *last < name.number) {
            return Known::New;
        }
        let answer = session.answers.iter().find(|(number, _)| *number == name.number);
        answer.map_or(Known::Forgotten, |(_, answer)| Known::Answered(*answer))
    }

    pub(crate) fn remember(&mut self, instance: InstanceId, name: RequestName, answer: u64) {
        let sessions = self.0.entry(instance.0).or_default();
        let at = sessions.iter().position(|known| known.name == name.session);
        let at = at.unwrap_or_else(|| {
            if sessions.len() == SESSIONS {
                sessions.pop_front();
            }
            sessions.push_back(Session { name: name.session, answers: VecDeque::new() });
            sessions.len() - 1
        });
        let answers = &mut sessions[at].answers;
        if answers.len() == ANSWERS {
            answers.pop_front();
        }
        answers.push_back((name.number, answer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: InstanceId = InstanceId(1);

    fn name(session: u64, number: u64) -> RequestName {
        RequestName { session, number, once: false }
    }

    #[test]
    fn a_request_is_known_by_instance_session_and_number() {
        let mut requests = Requests::default();
        requests.remember(ONE, name(7, 4), 40);
        requests.remember(ONE, name(7, 9), 90);
        assert_eq!(requests.look_up(ONE, name(7, 4)), Known::Answered(40));
        assert_eq!(requests.look_up(ONE, name(7, 10)), Known::New);
        assert_eq!(requests.look_up(ONE, name(8, 4)), Known::New);
        assert_eq!(requests.look_up(InstanceId(2), name(7, 4)), Known::New);
    }

    #[test]
    fn memory_has_a_limit_and_what_is_forgotten_is_not_done_again() {
        let mut requests = Requests::default();
        for number in 0..100 {
            requests.remember(ONE, name(7, number), number);
        }
        assert_eq!(requests.look_up(ONE, name(7, 35)), Known::Forgotten);
        assert_eq!(requests.look_up(ONE, name(7, 36)), Known::Answered(36));
        for session in 100..200 {
            requests.remember(ONE, name(session, 0), 0);
        }
        assert_eq!(requests.0[&1].len(), SESSIONS);
    }
}
