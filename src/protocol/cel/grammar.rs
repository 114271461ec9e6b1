//! The grammar of CEL, as a recognizer: it builds nothing.
//!
//! How tightly operators bind does not matter to whether an expression parses,
//! so an expression is a chain of operands. Only brackets nest, and each level
//! of them costs three calls.

use super::tokens::{Token, Tokens};
use super::{CelError, MAX_DEPTH};
use crate::model::text;

/// Names that the language keeps for itself.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];
/// What the names of results and functions of protocol version 2 begin with, in
/// lower case.
const TOUCH_ID: &str = "require_touchid";

/// What an operand is, for the macros that care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operand {
    Name,
    Field,
    Other,
}

pub(super) fn check(expression: &str) -> Result<(), CelError> {
    let mut parser = Parser { tokens: Tokens::new(expression), next: Token::End, depth: 0 };
    parser.advance()?;
    parser.expression()?;
    if parser.next == Token::End { Ok(()) } else { Err(parser.unexpected()) }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    next: Token<'a>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>, CelError> {
        let taken = self.next;
        self.next = self.tokens.next().map_err(|fault| self.fault(fault))?;
        Ok(taken)
    }

    /// Takes the sign if it is next.
    fn took(&mut self, sign: u8) -> Result<bool, CelError> {
        let is_next = self.next == Token::Sign(sign);
        if is_next {
            self.advance()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, sign: u8) -> Result<(), CelError> {
        if self.took(sign)? { Ok(()) } else { Err(self.unexpected()) }
    }

    fn fault(&self, fault: &str) -> CelError {
        CelError::Syntax(format!("{fault}, at byte {}", self.tokens.start()))
    }

    fn unexpected(&self) -> CelError {
        let what = match self.next {
            Token::End => return CelError::Syntax("it breaks off".to_owned()),
            Token::Name(name) => text::escaped_start(name, 32),
            Token::Literal => "a literal".to_owned(),
            Token::Int(_) | Token::Uint | Token::Float => "a number".to_owned(),
            Token::In => "in".to_owned(),
            Token::Operator => "an operator".to_owned(),
            Token::Sign(sign) => char::from(sign).to_string(),
        };
        CelError::Syntax(format!("{what} is not expected there, at byte {}", self.tokens.start()))
    }

    /// Operands, operators and conditions. The middle of a condition holds no
    /// other one, so that this needs no depth of its own.
    fn expression(&mut self) -> Result<Operand, CelError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.fault(&format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let mut is = self.chain()?;
        while self.took(b'?')? {
            self.chain()?;
            self.expect(b':')?;
            self.chain()?;
            is = Operand::Other;
        }
        self.depth -= 1;
        Ok(is)
    }

    /// Operands with operators between them.
    fn chain(&mut self) -> Result<Operand, CelError> {
        let mut is = self.operand()?;
        while matches!(self.next, Token::Operator | Token::In | Token::Sign(b'-')) {
            self.advance()?;
            self.operand()?;
            is = Operand::Other;
        }
        Ok(is)
    }

    /// An operand: signs, something, and what is asked of it.
    fn operand(&mut self) -> Result<Operand, CelError> {
        let mut negated = false;
        let mut minuses = 0;
        while self.took(b'!')? {
            negated = true;
        }
        while self.next == Token::Sign(b'-') {
            self.advance()?;
            minuses += 1;
        }
        let is_number = matches!(self.next, Token::Int(_) | Token::Float);
        if negated && minuses > usize::from(is_number) {
            return Err(self.unexpected());
        }
        if self.next == Token::Int(None) && minuses == 0 {
            return Err(self.fault("a number out of range"));
        }
        let is = self.primary()?;
        Ok(if negated || minuses > 0 { Operand::Other } else { is })
    }

    fn primary(&mut self) -> Result<Operand, CelError> {
        let mut is = Operand::Other;
        // Whether it can be the name of a message: names and dots only.
        let mut is_path = false;
        let mut first = "";
        let start = self.tokens.start();
        match self.advance()? {
            Token::Literal | Token::Int(_) | Token::Uint | Token::Float => {}
            Token::Sign(b'(') => {
                is = self.expression()?;
                self.expect(b')')?;
            }
            Token::Sign(b'[') => self.list(b']', &mut |parser| parser.expression().map(drop))?,
            Token::Sign(b'{') => self.list(b'}', &mut |parser| {
                parser.expression()?;
                parser.expect(b':')?;
                parser.expression().map(drop)
            })?,
            Token::Sign(b'.') => {
                let Token::Name(name) = self.next else { return Err(self.unexpected()) };
                self.advance()?;
                is_path = self.name(name)?;
                first = name;
            }
            Token::Name(name) => {
                is_path = self.name(name)?;
                first = name;
                if is_path {
                    is = Operand::Name;
                }
            }
            Token::In | Token::Operator | Token::Sign(_) | Token::End => {
                return Err(CelError::Syntax(format!("an operand is missing, at byte {start}")));
            }
        }
        let (is, is_message) = self.suffixes(is, is_path)?;
        if is_path && !is_message {
            self.refuse_reserved(first)?;
        }
        Ok(is)
    }

    /// Only a message can have the name of a reserved word.
    fn refuse_reserved(&self, name: &str) -> Result<(), CelError> {
        if RESERVED.contains(&name) {
            return Err(self.fault(&format!("{name} is a reserved word")));
        }
        Ok(())
    }

    /// A name, and the arguments if it is a call. Returns whether it is a bare name.
    fn name(&mut self, name: &str) -> Result<bool, CelError> {
        let start = name.get(..TOUCH_ID.len()).unwrap_or_default();
        if start.eq_ignore_ascii_case(TOUCH_ID) {
            return Err(CelError::TouchId(text::escaped_start(name, 64)));
        }
        if !self.took(b'(')? {
            return Ok(true);
        }
        self.refuse_reserved(name)?;
        let arguments = self.arguments()?;
        if name == "has" && arguments.count == 1 && arguments.first != Operand::Field {
            return Err(self.fault("the argument of has() is not a field"));
        }
        Ok(false)
    }

    /// Fields, calls, indices, and the fields of a message. Returns whether
    /// there was a message of the path's name.
    #[expect(clippy::wildcard_enum_match_arm, reason = "any other token ends or breaks it")]
    fn suffixes(
        &mut self,
        mut is: Operand,
        mut is_path: bool,
    ) -> Result<(Operand, bool), CelError> {
        let mut is_message = false;
        loop {
            match self.next {
                Token::Sign(b'.') => {
                    self.advance()?;
                    is = Operand::Field;
                    match self.advance()? {
                        Token::Name(name) if self.took(b'(')? => {
                            let arguments = self.arguments()?;
                            if !arguments.fit_macro(name) {
                                let fault = format!("the first argument of {name}() is not a name");
                                return Err(self.fault(&fault));
                            }
                            is = Operand::Other;
                            is_path = false;
                        }
                        Token::Name(_) => {}
                        _ => return Err(self.fault("a field name is missing")),
                    }
                }
                Token::Sign(b'[') => {
                    self.advance()?;
                    self.expression()?;
                    self.expect(b']')?;
                    is = Operand::Other;
                    is_path = false;
                }
                Token::Sign(b'{') if is_path => {
                    self.advance()?;
                    self.list(b'}', &mut |parser| {
                        let Token::Name(_) = parser.advance()? else {
                            return Err(parser.fault("a field name is missing"));
                        };
                        parser.expect(b':')?;
                        parser.expression().map(drop)
                    })?;
                    is = Operand::Other;
                    is_path = false;
                    is_message = true;
                }
                _ => return Ok((is, is_message)),
            }
        }
    }

    /// The rest of a list behind its opening bracket. A comma may end it.
    fn list(
        &mut self,
        end: u8,
        element: &mut dyn FnMut(&mut Self) -> Result<(), CelError>,
    ) -> Result<(), CelError> {
        // A lone comma is an empty list.
        if self.took(b',')? {
            return self.expect(end);
        }
        while !self.took(end)? {
            element(self)?;
            if self.took(end)? {
                return Ok(());
            }
            self.expect(b',')?;
        }
        Ok(())
    }

    /// The rest of a call's arguments behind the bracket.
    fn arguments(&mut self) -> Result<Arguments, CelError> {
        let mut arguments = Arguments { first: Operand::Other, count: 0 };
        if self.took(b')')? {
            return Ok(arguments);
        }
        loop {
            let is = self.expression()?;
            if arguments.count == 0 {
                arguments.first = is;
            }
            arguments.count += 1;
            if self.took(b')')? {
                return Ok(arguments);
            }
            self.expect(b',')?;
        }
    }
}

/// The arguments of a call.
struct Arguments {
    first: Operand,
    count: usize,
}

impl Arguments {
    /// Whether they are good for a method of that name, if it is a macro that
    /// introduces a variable.
    fn fit_macro(&self, name: &str) -> bool {
        let is_macro = match name {
            "all" | "exists" | "exists_one" | "existsOne" | "filter" => self.count == 2,
            "map" => matches!(self.count, 2 | 3),
            _ => false,
        };
        !is_macro || self.first == Operand::Name
    }
}
