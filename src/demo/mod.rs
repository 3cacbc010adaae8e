//! x
mod devices;
mod freezer;
mod screen;
