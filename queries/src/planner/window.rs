//! Windows in SQL: `FROM TUMBLE(t, ts, size)`, `FROM HOP(t, ts, slide, size)`, and both in GROUP BY.

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr as LogicalExpr;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{
    Expr, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, ObjectName, Select, Spanned,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use tidemill_engine::window::{WINDOW_SIZE_MAX_US, WindowAssigner};

use super::Relation;
use super::names::Names;
use super::stream::{WINDOW_END, WINDOW_START, function_name};
use crate::diagnostic::{Code, Problem};
use crate::statement::{Name, normalize};

/// The kinds of windows of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WindowKind {
    Tumble,
    Hop,
}

/// A window as it was written.
#[derive(Clone, Debug)]
pub(super) struct WindowCall {
    /// What it reads.
    pub(super) relation: Name,
    /// The event time.
    pub(super) time: Name,
    /// Distance between starts; only for HOP.
    pub(super) slide: Option<Expr>,
    /// Width.
    pub(super) size: Expr,
    /// The whole call.
    pub(super) span: Span,
}

/// How many windows a row may be in: each of them is state.
const WINDOWS_PER_ROW_MAX: i64 = 10_000;

/// Whether a name is that of a window, of this version or not.
pub(super) fn is_function(name: &str) -> bool {
    matches!(name, "tumble" | "hop" | "session" | "cumulate" | "tumble_start" | "tumble_end" | "hop_start" | "hop_end")
}

/// Returns what a window reads: its first argument.
fn relation_argument(args: &[FunctionArg]) -> Option<Name> {
    match args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Identifier(ident))) => Some(normalize(ident)),
        _ => None,
    }
}

/// Understands `FROM TUMBLE(…)` and `FROM HOP(…)`.
pub(super) fn from_table_function(name: &ObjectName, args: Vec<FunctionArg>) -> Result<WindowCall, Problem> {
    let span = args.iter().map(Spanned::span).fold(name.span(), |span, argument| span.union(&argument));
    let kind = kind_of(&name.to_string(), name.span())?;
    let Some(relation) = relation_argument(&args) else {
        let place = args.first().map_or(span, Spanned::span);
        return Err(Problem::new(Code::Syntax, place, "a window reads a source or a view").hint(usage(kind, None)));
    };
    arguments(kind, relation, args.into_iter().skip(1), span)
}

/// Understands `GROUP BY device, tumble(ts, INTERVAL '1 minute')`, and leaves the window's columns in its place.
pub(super) fn take_from_group_by(select: &mut Select, relation: &Name) -> Result<Option<WindowCall>, Problem> {
    let GroupByExpr::Expressions(exprs, _) = &mut select.group_by else { return Ok(None) };
    let Some(at) =
        exprs.iter().position(|expr| matches!(expr, Expr::Function(function) if is_function(&function_name(function))))
    else {
        return Ok(None);
    };
    let Expr::Function(call) = exprs[at].clone() else { return Ok(None) };
    let span = exprs[at].span();
    let kind = kind_of(&function_name(&call), call.name.span())?;
    let FunctionArguments::List(list) = call.args else {
        return Err(Problem::new(Code::Syntax, span, "a window has arguments").hint(usage(kind, Some(relation))));
    };
    let window = arguments(kind, relation.clone(), list.args.into_iter(), span)?;
    exprs.remove(at);
    for name in [WINDOW_START, WINDOW_END] {
        let column = Expr::Identifier(Ident { value: name.to_owned(), quote_style: None, span });
        if !exprs.iter().any(|expr| expr.to_string().eq_ignore_ascii_case(name)) {
            exprs.push(column);
        }
    }
    Ok(Some(window))
}

fn kind_of(name: &str, span: Span) -> Result<WindowKind, Problem> {
    match name.to_lowercase().as_str() {
        "tumble" => Ok(WindowKind::Tumble),
        "hop" => Ok(WindowKind::Hop),
        name @ ("session" | "cumulate") => Err(Problem::new(
            Code::NotSupported,
            span,
            format!("{} windows are not in this version", name.to_uppercase()),
        )
        .hint("use TUMBLE or HOP")),
        name => Err(Problem::new(Code::UnknownFunction, span, format!("there is no window {}", name.to_uppercase()))
            .did_you_mean(&name.to_uppercase(), ["TUMBLE", "HOP"])),
    }
}

fn usage(kind: WindowKind, relation: Option<&Name>) -> String {
    let relation = relation.map_or("readings", |name| name.value.as_str());
    match kind {
        WindowKind::Tumble => format!("write TUMBLE({relation}, ts, INTERVAL '1 minute')"),
        WindowKind::Hop => format!("write HOP({relation}, ts, INTERVAL '10 seconds', INTERVAL '1 minute')"),
    }
}

/// Reads `ts, [slide,] size`; slide and size also by name.
fn arguments(
    kind: WindowKind,
    relation: Name,
    args: impl Iterator<Item = FunctionArg>,
    span: Span,
) -> Result<WindowCall, Problem> {
    let wrong =
        |span: Span, message: String| Problem::new(Code::Syntax, span, message).hint(usage(kind, Some(&relation)));
    let mut names = match kind {
        WindowKind::Tumble => vec!["ts", "size"],
        WindowKind::Hop => vec!["ts", "slide", "size"],
    };
    let (mut time, mut slide, mut size) = (None, None, None);
    for argument in args {
        let place = argument.span();
        let (name, value) = match argument {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => {
                if names.is_empty() {
                    return Err(wrong(place, "there are too many arguments".to_owned()));
                }
                (names.remove(0), value)
            }
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => {
                let written = name.value.to_lowercase();
                let Some(at) = names.iter().position(|name| *name == written) else {
                    return Err(Problem::new(Code::Syntax, name.span, format!("there is no argument {written}"))
                        .did_you_mean(&written, names.iter().copied()));
                };
                (names.remove(at), value)
            }
            other => return Err(wrong(place, format!("{other} is no argument of a window"))),
        };
        match name {
            "ts" => match &value {
                Expr::Identifier(ident) => time = Some(normalize(ident)),
                _ => return Err(wrong(place, "the event time is a column".to_owned())),
            },
            "slide" => slide = Some(value),
            _ => size = Some(value),
        }
    }
    match (time, size, &slide) {
        (Some(time), Some(size), _) if kind == WindowKind::Tumble || slide.is_some() => {
            Ok(WindowCall { relation, time, slide, size, span })
        }
        _ => Err(wrong(span, format!("missing: {}", names.join(", ")))),
    }
}

/// Makes the windows of a call, its intervals being known.
pub(super) fn assigner(
    call: &WindowCall,
    mut interval_us: impl FnMut(&Expr) -> Result<i64, Problem>,
) -> Result<WindowAssigner, Problem> {
    let size_us = interval_us(&call.size)?;
    let Some(slide) = &call.slide else { return Ok(WindowAssigner::Tumbling { size_us }) };
    let slide_us = interval_us(slide)?;
    if size_us / slide_us > WINDOWS_PER_ROW_MAX {
        let message =
            format!("a row would be in {} windows; at most {WINDOWS_PER_ROW_MAX} are allowed", size_us / slide_us);
        return Err(Problem::new(Code::NotStreamable, call.span, message).hint("let the windows slide further"));
    }
    if slide_us > size_us {
        let message = "the windows slide further than they are wide: rows between them would be lost";
        return Err(
            Problem::new(Code::NotStreamable, call.span, message).hint("the order is HOP(table, time, slide, size)")
        );
    }
    if slide_us == size_us {
        return Ok(WindowAssigner::Tumbling { size_us });
    }
    Ok(WindowAssigner::Hopping { size_us, slide_us })
}

/// Finds the event time that a window names among those the input carries.
pub(super) fn time_column(call: &WindowCall, input: &Relation) -> Result<usize, Problem> {
    let name = call.time.value.as_str();
    let carried: Vec<&str> =
        input.time_columns.iter().map(|column| input.schema.field(*column).name().as_str()).collect();
    if let Some(at) = carried.iter().position(|carried| *carried == name) {
        return Ok(input.time_columns[at]);
    }
    let relation = &call.relation.value;
    if input.schema.index_of(name).is_err() {
        let columns = input.schema.fields().iter().map(|field| field.name().as_str());
        return Err(Problem::new(
            Code::UnknownColumn,
            call.time.span,
            format!("there is no column \"{name}\" in {relation}"),
        )
        .did_you_mean(name, columns));
    }
    let problem = |message: String| Problem::new(Code::BadTimeColumn, call.time.span, message);
    Err(match carried.as_slice() {
        [] if input.is_view => problem(format!("{relation} does not pass its event time on"))
            .hint("select the event time in that view, unchanged"),
        [] => problem(format!("{relation} has no event time"))
            .hint(format!("add WATERMARK FOR {name} AS {name} - INTERVAL '10 seconds' to CREATE SOURCE {relation}")),
        _ => problem(format!("\"{name}\" is not the event time of {relation}"))
            .hint(format!("use {}", carried.join(" or "))),
    })
}

/// Reads an interval of a fixed length, greater than zero.
pub(super) fn interval_us(expr: &Expr, names: &Names<'_>) -> Result<i64, Problem> {
    let us = any_interval_us(expr, names)?;
    if us <= 0 {
        return Err(Problem::new(Code::Syntax, expr.span(), "the interval must be greater than zero"));
    }
    Ok(us)
}

/// Reads an interval of a fixed length.
pub(super) fn any_interval_us(expr: &Expr, names: &Names<'_>) -> Result<i64, Problem> {
    let wrong = |message: &str| Problem::new(Code::Syntax, expr.span(), message).hint("write INTERVAL '1 minute'");
    if !matches!(expr, Expr::Interval(_)) {
        return Err(wrong("expected an interval"));
    }
    let logical = names.planner().sql_to_expr(expr.clone(), &DFSchema::empty(), &mut PlannerContext::new());
    let Ok(logical) = logical else { return Err(wrong(&format!("{expr} is no length of time"))) };
    let LogicalExpr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = logical else {
        return Err(wrong("expected an interval"));
    };
    if interval.months != 0 {
        return Err(wrong("months have no fixed length").hint("write days: INTERVAL '30 days'"));
    }
    if interval.nanoseconds % 1_000 != 0 {
        return Err(wrong("time has a resolution of one microsecond"));
    }
    const DAY_US: i64 = 86_400_000_000;
    i64::from(interval.days)
        .checked_mul(DAY_US)
        .and_then(|days_us| days_us.checked_add(interval.nanoseconds / 1_000))
        .filter(|us| *us <= WINDOW_SIZE_MAX_US)
        .ok_or_else(|| {
            wrong("the interval is too long").hint(format!("at most {} days are allowed", WINDOW_SIZE_MAX_US / DAY_US))
        })
}
