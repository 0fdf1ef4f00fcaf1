//! The WIT world `routing` as Rust, generated. Not for use by hand: [`crate`] re-exports what policies need.

#![expect(clippy::too_many_arguments, reason = "generated: records arrive as flat parameters")]

wit_bindgen::generate!({
    path: "../wit",
    world: "routing",
    pub_export_macro: true,
    export_macro_name: "export_world",
});
