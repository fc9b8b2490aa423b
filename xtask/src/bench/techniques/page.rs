//! One self-contained page: the table, to be sorted by any column, and the pictures.

use std::fmt::Write;

use super::rows::{Results, Row};
use super::svg::{self, Point, escape};
use super::table;

/// Sorts by the column whose heading is clicked: by the first number of a cell, or else by its words.
const SCRIPT: &str = include_str!("sort.js");

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1500px;padding:0 1rem;color:#222;background:#fff}\
    table{border-collapse:collapse;font-size:13px}th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
    th:first-child,td:first-child{text-align:left}th button{font:inherit;font-weight:600;border:0;background:none;cursor:pointer;color:inherit}\
    figure{margin:2rem 0}.wide{overflow-x:auto}svg{max-width:1000px;width:100%}\
    @media(prefers-color-scheme:dark){body{background:#161616;color:#ddd}th,td{border-color:#444}}";

pub fn page(results: &Results, title: &str) -> String {
    let mut text = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n<h1>{title}</h1>\n<div class=\"wide\"><table>\n<thead><tr>"
    );
    for name in table::HEAD {
        let _ = write!(text, "<th aria-sort=\"none\"><button>{name}</button></th>");
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in &results.rows {
        let cells = table::cells(row, results).map(|cell| format!("<td>{}</td>", escape(&cell)));
        let _ = writeln!(text, "<tr>{}</tr>", cells.concat());
    }
    text += "</tbody></table></div>\n";
    for paragraph in table::legend(results).split("\n\n") {
        let _ = writeln!(text, "<p>{}</p>", escape(&paragraph.replace('`', "")));
    }
    let figures = [
        ("Quality against memory", against_memory(results)),
        ("Quality against time", against_time(results)),
        ("Held-out loss", curves(results, |row| row.held_out.clone())),
        ("Training loss", curves(results, |row| row.train.clone())),
        ("Held-out loss of short runs over learning rates", rates(results)),
    ];
    for (caption, picture) in figures {
        let _ = writeln!(
            text,
            "<figure><figcaption><h2>{caption}</h2></figcaption>\n{picture}</figure>"
        );
    }
    let _ = writeln!(text, "<script>{SCRIPT}</script>\n</html>");
    text
}

pub fn against_memory(results: &Results) -> String {
    scatter(results, "peak memory, MB", |row| Some(row.peak / 1e6))
}

fn against_time(results: &Results) -> String {
    scatter(results, "seconds of training", |row| row.seconds)
}

fn scatter(results: &Results, x_label: &str, x: impl Fn(&Row) -> Option<f64>) -> String {
    let (scale, unit) = table::scale(results.metric());
    let points = results.rows.iter().filter_map(|row| {
        Some(Point {
            name: row.name,
            x: x(row)?,
            y: scale * row.worth(),
            marked: row.front,
        })
    });
    let points: Vec<Point> = points.collect();
    let y_label = match results.metric() {
        "loss" => "held-out loss, negative".into(),
        metric => format!("{}{}", metric.replace('_', " "), unit.replace(" %", ", %")),
    };
    svg::scatter(&points, x_label, &y_label)
}

fn curves(results: &Results, of: impl Fn(&Row) -> Vec<(f64, f64)>) -> String {
    let named: Vec<(&str, Vec<(f64, f64)>)> = results.rows.iter().map(|row| (row.name, of(row))).collect();
    svg::lines(&named, false, "step", "loss")
}

fn rates(results: &Results) -> String {
    let searched = results.rows.iter().filter(|row| !row.tried.is_empty());
    let named: Vec<(&str, Vec<(f64, f64)>)> = searched.map(|row| (row.name, row.tried.clone())).collect();
    svg::lines(&named, true, "learning rate", "loss")
}

#[cfg(test)]
mod tests {
    use super::super::journal::parse;
    use super::super::rows::tests::LINES;
    use super::*;

    #[test]
    fn the_page_stands_alone() {
        let results = Results::of(&parse(LINES).unwrap()).unwrap();
        let text = page(&results, "Techniques");
        assert_eq!(text.matches("<figure>").count(), 5);
        assert_eq!(text.matches("<tr><td>").count(), 2);
        for outside in ["http://", "https://", "src=", "href="] {
            let allowed = text.matches("http://www.w3.org/2000/svg").count();
            let found = text.matches(outside).count();
            assert_eq!(found, if outside == "http://" { allowed } else { 0 }, "{outside}");
        }
        assert!(!text.replace("isNaN", "").contains("NaN"));
    }
}
