//! What a pod of the lab answers, over HTTP and UDP alike: who it is, and whom it sees.

use std::{collections::BTreeSet, fmt, net::SocketAddr, str::FromStr};

/// One answer, written as `nginx-pod at 10.244.1.2:80 sees 10.244.2.3:41234`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The pod's name; `pod/container` where a pod has several.
    pub name: String,
    /// The address it was asked at, after all translation.
    pub address: SocketAddr,
    /// The address it was asked from, after all translation.
    pub client: SocketAddr,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} sees {}", self.name, self.address, self.client)
    }
}

/// The text is no answer of the lab's server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no answer of a pod of the lab")]
pub struct NoAnswer(pub String);

impl FromStr for Answer {
    type Err = NoAnswer;

    fn from_str(text: &str) -> Result<Self, NoAnswer> {
        let line = text.trim_end();
        let parse = || {
            let (name, rest) = line.split_once(" at ")?;
            let (address, client) = rest.split_once(" sees ")?;
            let (address, client) = (address.parse().ok()?, client.parse().ok()?);
            Some(Self { name: name.to_owned(), address, client })
        };
        parse().ok_or_else(|| NoAnswer(line.to_owned()))
    }
}

/// Who answered, in order.
pub fn names(answers: &[Answer]) -> Vec<&str> {
    answers.iter().map(|answer| answer.name.as_str()).collect()
}

/// Says whether the answers came in strict turn: each of the `of` once, and then again in the same order.
pub fn is_in_turn(answers: &[Answer], of: usize) -> bool {
    let names = names(answers);
    let round: BTreeSet<_> = names.iter().take(of).collect();
    let next_round = names.iter().skip(of);
    round.len() == of && names.iter().zip(next_round).all(|(before, now)| before == now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_strict() {
        let check = |names: &str, expected: bool| {
            let lines = names.chars().map(|name| format!("{name} at 10.0.0.1:80 sees 10.0.0.2:1"));
            let answers: Vec<Answer> = lines.map(|line| line.parse().unwrap()).collect();
            assert_eq!(is_in_turn(&answers, 3), expected, "{names}");
        };
        check("abcabca", true);
        check("abcbac", false);
        check("aabaab", false);
        check("ab", false);
    }

    #[test]
    fn an_answer_reads_back_as_it_was_written() {
        let answer = Answer {
            name: "pair-pod/web".into(),
            address: "10.244.1.2:80".parse().unwrap(),
            client: "[fd00::1]:4000".parse().unwrap(),
        };

        assert_eq!(answer.to_string().parse(), Ok(answer));
    }

    #[test]
    fn a_stranger_s_words_are_no_answer() {
        assert_eq!("hello\n".parse::<Answer>(), Err(NoAnswer("hello".into())));
    }
}
