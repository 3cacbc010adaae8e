//! Flink's way to write a window, answered with ours.

use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

use super::{is_space, is_word, slice};
use crate::diagnostic::{Code, Problem};

/// Recognises Flink's `TUMBLE(TABLE t, DESCRIPTOR(ts), …)`, and answers with the same in our words.
pub(crate) fn refuse_flink_window(text: &str, tokens: &[TokenWithSpan]) -> Result<(), Problem> {
    let significant: Vec<&TokenWithSpan> = tokens.iter().filter(|token| !is_space(token)).collect();
    let Some(at) = significant.windows(3).position(|three| {
        ["TUMBLE", "HOP", "SESSION", "CUMULATE"].iter().any(|name| is_word(three[0], name))
            && three[1].token == Token::LParen
            && is_word(three[2], "TABLE")
    }) else {
        return Ok(());
    };
    let mut depth = 0usize;
    let close = significant[at..].iter().position(|token| {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.saturating_sub(1),
            _ => return false,
        }
        depth == 0
    });
    let call = &significant[at..close.map_or(significant.len(), |close| at + close + 1)];
    let span = call[0].span.union(&call[call.len() - 1].span);
    let (mut rewritten, mut open, mut end): (String, bool, Option<Span>) = (String::new(), false, None);
    for token in call {
        if is_word(token, "TABLE") || is_word(token, "DESCRIPTOR") {
            open |= is_word(token, "DESCRIPTOR");
            end = None;
            if !rewritten.ends_with('(') {
                rewritten.push(' ');
            }
            continue;
        }
        if open && token.token == Token::LParen {
            continue;
        }
        if open && token.token == Token::RParen {
            open = false;
            continue;
        }
        let spaced = end.is_some_and(|end: Span| end.end != token.span.start);
        if spaced && !rewritten.ends_with([' ', '(']) && !matches!(token.token, Token::Comma | Token::RParen) {
            rewritten.push(' ');
        }
        rewritten.push_str(slice(text, token.span));
        end = Some(token.span);
    }
    Err(Problem::new(Code::Syntax, span, "this is how Flink writes a window").hint(format!("write FROM {rewritten}")))
}
