//! The WIT package as Rust, generated. Not for use by hand: [`crate`] re-exports what policies need.
//!
//! The types and the host's functions are generated once, and each hook by itself: a component has the hooks whose
//! export macros are used, and the linker puts their worlds together.

#![expect(clippy::too_many_arguments, reason = "generated: records arrive as flat parameters")]

wit_bindgen::generate!({
    path: "../wit",
    inline: "
        package waspmq:sdk;
        world common {
            import waspmq:policy/types@0.1.0;
            import waspmq:policy/host@0.1.0;
        }
    ",
    world: "waspmq:sdk/common",
    generate_all,
    generate_unused_types: true,
});

pub mod lifecycle {
    wit_bindgen::generate!({
        path: "../wit",
        world: "lifecycle",
        with: { "waspmq:policy/host@0.1.0": crate::bindings::waspmq::policy::host },
        pub_export_macro: true,
        export_macro_name: "export_lifecycle",
    });
}

pub mod routing {
    wit_bindgen::generate!({
        path: "../wit",
        world: "route-hook",
        with: { "waspmq:policy/types@0.1.0": crate::bindings::waspmq::policy::types },
        pub_export_macro: true,
        export_macro_name: "export_routing_hook",
    });
}

pub mod ack {
    wit_bindgen::generate!({
        path: "../wit",
        world: "ack-hook",
        with: { "waspmq:policy/types@0.1.0": crate::bindings::waspmq::policy::types },
        pub_export_macro: true,
        export_macro_name: "export_ack_hook",
    });
}

pub mod admission {
    wit_bindgen::generate!({
        path: "../wit",
        world: "admission-hook",
        with: { "waspmq:policy/types@0.1.0": crate::bindings::waspmq::policy::types },
        pub_export_macro: true,
        export_macro_name: "export_admission_hook",
    });
}

pub mod overflow {
    wit_bindgen::generate!({
        path: "../wit",
        world: "overflow-hook",
        with: { "waspmq:policy/types@0.1.0": crate::bindings::waspmq::policy::types },
        pub_export_macro: true,
        export_macro_name: "export_overflow_hook",
    });
}

pub mod compression {
    wit_bindgen::generate!({
        path: "../wit",
        world: "compression-hook",
        with: { "waspmq:policy/types@0.1.0": crate::bindings::waspmq::policy::types },
        pub_export_macro: true,
        export_macro_name: "export_compression_hook",
    });
}
