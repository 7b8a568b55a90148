//! A figure the product is held to, beside its goal.

use serde_json::json;

/// Smaller is better.
pub(super) struct Figure {
    pub name: String,
    pub value: f64,
    pub goal: f64,
    pub unit: &'static str,
}

/// Prints every figure, one JSON object each or a table; `true` if all goals are met.
///
/// # Errors
/// A sentence when the output is gone.
pub(super) fn show(figures: &[Figure], json: bool) -> Result<bool, String> {
    let mut all = true;
    for figure in figures {
        let met = figure.value <= figure.goal;
        all &= met;
        if json {
            let line = json!({ "figure": figure.name, "value": figure.value, "goal": figure.goal, "unit": figure.unit, "met": met });
            super::show::line(&line).map_err(|e| e.to_string())?;
        } else {
            let mark = if met { "ok  " } else { "MISS" };
            println!("{mark} {:<72} {:>10.3} {:<3} goal {:>7.3}", figure.name, figure.value, figure.unit, figure.goal);
        }
    }
    Ok(all)
}
