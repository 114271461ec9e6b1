//! Splitting a CEL expression into tokens.

/// A token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name that is not a keyword.
    Name(&'a str),
    /// `true`, `false`, `null`, a string or bytes.
    Literal,
    /// A whole number without a sign; `None` for `9223372036854775808`, which
    /// is one only behind a minus.
    Int(Option<i64>),
    /// An unsigned number.
    Uint,
    /// A number with a fraction or an exponent.
    Float,
    /// `in`.
    In,
    /// An operator between two operands, but `-`, `?` and `in`.
    Operator,
    /// `!`, `-`, `.`, `,`, `:`, `?` or a bracket.
    Sign(u8),
    /// The end of the expression.
    End,
}

/// Reads tokens from the start of a text.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
    /// Where the last token begins.
    start: usize,
}

type Fault = &'static str;

impl<'a> Tokens<'a> {
    pub(super) const fn new(text: &'a str) -> Self {
        Self { text, at: 0, start: 0 }
    }

    /// Where the last token begins, in bytes.
    pub(super) const fn start(&self) -> usize {
        self.start
    }

    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.rest().get(ahead).copied().unwrap_or(0)
    }

    fn skip_while(&mut self, fits: impl Fn(u8) -> bool) -> usize {
        let count = self.rest().iter().take_while(|byte| fits(**byte)).count();
        self.at += count;
        count
    }

    /// The next token.
    pub(super) fn next(&mut self) -> Result<Token<'a>, Fault> {
        loop {
            self.skip_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c));
            if !self.rest().starts_with(b"//") {
                break;
            }
            self.skip_while(|byte| byte != b'\n');
        }
        self.start = self.at;
        let Some(&first) = self.rest().first() else { return Ok(Token::End) };
        match first {
            b'0'..=b'9' => self.number(),
            b'.' if self.byte(1).is_ascii_digit() => self.number(),
            b'"' | b'\'' => self.string(false),
            _ if first.is_ascii_alphabetic() || first == b'_' => self.word(),
            _ => self.sign(first),
        }
    }

    fn sign(&mut self, first: u8) -> Result<Token<'a>, Fault> {
        let (length, token) = match (first, self.byte(1)) {
            (b'=' | b'!' | b'<' | b'>', b'=') | (b'&', b'&') | (b'|', b'|') => (2, Token::Operator),
            (b'<' | b'>' | b'+' | b'*' | b'/' | b'%', _) => (1, Token::Operator),
            _ if b"()[]{}!-.,:?".contains(&first) => (1, Token::Sign(first)),
            _ => return Err("a character that no expression has outside a string"),
        };
        self.at += length;
        Ok(token)
    }

    fn word(&mut self) -> Result<Token<'a>, Fault> {
        let start = self.at;
        self.skip_while(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let word = self.text.get(start..self.at).unwrap_or_default();
        if matches!(self.byte(0), b'"' | b'\'') {
            match word {
                "r" | "R" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB" => {
                    return self.string(true);
                }
                "b" | "B" => return self.string(false),
                _ => {}
            }
        }
        Ok(match word {
            "true" | "false" | "null" => Token::Literal,
            "in" => Token::In,
            name => Token::Name(name),
        })
    }

    fn number(&mut self) -> Result<Token<'a>, Fault> {
        let start = self.at;
        if self.byte(0) == b'0' && self.byte(1) == b'x' && self.byte(2).is_ascii_hexdigit() {
            self.at += 2;
            self.skip_while(|byte| byte.is_ascii_hexdigit());
            let digits = self.text.get(start + 2..self.at).unwrap_or_default();
            return self.whole(u64::from_str_radix(digits, 16).ok());
        }
        self.skip_while(|byte| byte.is_ascii_digit());
        let mut float = false;
        if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            self.at += 1;
            self.skip_while(|byte| byte.is_ascii_digit());
            float = true;
        }
        if matches!(self.byte(0), b'e' | b'E') {
            let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
            if self.byte(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.skip_while(|byte| byte.is_ascii_digit());
                float = true;
            }
        }
        let digits = self.text.get(start..self.at).unwrap_or_default();
        if float {
            let finite = digits.parse::<f64>().is_ok_and(f64::is_finite);
            return if finite { Ok(Token::Float) } else { Err("a number out of range") };
        }
        self.whole(digits.parse().ok())
    }

    fn whole(&mut self, number: Option<u64>) -> Result<Token<'a>, Fault> {
        let number = number.ok_or("a number out of range")?;
        if matches!(self.byte(0), b'u' | b'U') {
            self.at += 1;
            return Ok(Token::Uint);
        }
        match i64::try_from(number) {
            Ok(number) => Ok(Token::Int(Some(number))),
            Err(_) if number == i64::MIN.unsigned_abs() => Ok(Token::Int(None)),
            Err(_) => Err("a number out of range"),
        }
    }

    fn string(&mut self, raw: bool) -> Result<Token<'a>, Fault> {
        const OPEN: Fault = "a string that does not end";
        let quote = self.byte(0);
        let triple = [quote; 3];
        let long = self.rest().starts_with(&triple);
        self.at += if long { 3 } else { 1 };
        loop {
            self.skip_while(|byte| byte != quote && byte != b'\\' && (long || !is_newline(byte)));
            match self.rest().first() {
                Some(byte) if *byte == quote && !long => {
                    self.at += 1;
                    return Ok(Token::Literal);
                }
                Some(byte) if *byte == quote => {
                    if self.rest().starts_with(&triple) {
                        self.at += 3;
                        return Ok(Token::Literal);
                    }
                    self.at += 1;
                }
                Some(b'\\') if raw => self.at += 1,
                Some(b'\\') => self.escape()?,
                Some(_) | None => return Err(OPEN),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        const UNKNOWN: Fault = "an unknown escape in a string";
        let (from, digits, radix) = match self.byte(1) {
            b'x' | b'X' => (2, 2, 16),
            b'u' => (2, 4, 16),
            b'U' => (2, 8, 16),
            b'0'..=b'3' => (1, 3, 8),
            plain if b"abfnrtv\\?\"'`".contains(&plain) => (2, 0, 16),
            _ => return Err(UNKNOWN),
        };
        if digits > 0 {
            let number = self.rest().get(from..from + digits).ok_or(UNKNOWN)?;
            let plain = number.iter().all(|byte| char::from(*byte).is_digit(radix));
            let number = str::from_utf8(number).map_err(|_| UNKNOWN)?;
            let code = u32::from_str_radix(number, radix).map_err(|_| UNKNOWN)?;
            if !plain || char::from_u32(code).is_none() {
                return Err(UNKNOWN);
            }
        }
        self.at += from + digits;
        Ok(())
    }
}

const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}
