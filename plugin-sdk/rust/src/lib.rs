//! Write a WaspMQ policy in Rust: implement [`Routing`], name the type in [`export_routing!`], build for
//! `wasm32-unknown-unknown`.
//!
//! ```
//! use waspmq_plugin_sdk::{Message, Routing, Verdict, export_routing};
//!
//! struct Audit;
//!
//! impl Routing for Audit {
//!     fn configure(_config: &str) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn route(&mut self, message: &Message) -> Verdict {
//!         Verdict::fan_out([message.address.as_str(), "topic/audit"]).with_header("seen-by", "audit")
//!     }
//! }
//!
//! export_routing!(Audit);
//! ```
//!
//! Everything here also compiles for the host, so that a policy's logic has ordinary unit tests; the exports
//! exist only in a component. Deliberately not here: reading JSON, which is the plugin's choice.

#[doc(hidden)]
pub mod bindings;
pub mod host;
mod pattern;
mod verdict;

pub use bindings::waspmq::policy::types::{Kind, Message, Pick, QueueMembers, Route, Verdict};
pub use pattern::matches;

/// A routing policy. Each worker of the broker has an instance of its own; an instance may be replaced at any
/// time by a new one, so its memory is a cache.
pub trait Routing {
    /// Makes the policy from its configuration, one JSON object. An error is shown to the operator, and the
    /// policy is not put in place.
    fn configure(config: &str) -> Result<Self, String>
    where
        Self: Sized;

    /// Tries out what can be tried without a message, behind `configure`. Not called while nothing is configured.
    fn self_test(&self) -> Result<(), String> {
        Ok(())
    }

    /// Hears of every queue before the first message, and of changes later; no members: the queue is gone.
    fn members_changed(&mut self, members: QueueMembers) {
        let _ = members;
    }

    /// Decides one message.
    fn route(&mut self, message: &Message) -> Verdict;
}

/// Makes the component's exports from a type that implements [`Routing`]. Once per crate; nothing outside of
/// WebAssembly.
#[rustfmt::skip]
#[macro_export]
macro_rules! export_routing {
    ($policy:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            use $crate::bindings;

            ::std::thread_local! {
                static POLICY: ::core::cell::RefCell<::core::option::Option<$policy>> =
                    const { ::core::cell::RefCell::new(::core::option::Option::None) };
            }

            struct Exports;

            impl bindings::Guest for Exports {
                fn configure(
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::host::log_panics();
                    let policy = <$policy as $crate::Routing>::configure(&config)?;
                    POLICY.set(::core::option::Option::Some(policy));
                    ::core::result::Result::Ok(())
                }

                fn self_test() -> ::core::result::Result<(), ::std::string::String> {
                    POLICY.with_borrow(|policy| match policy {
                        ::core::option::Option::Some(policy) => $crate::Routing::self_test(policy),
                        ::core::option::Option::None => ::core::result::Result::Ok(()),
                    })
                }

                fn members_changed(members: $crate::QueueMembers) {
                    POLICY.with_borrow_mut(|policy| {
                        if let ::core::option::Option::Some(policy) = policy {
                            $crate::Routing::members_changed(policy, members);
                        }
                    });
                }

                fn route(message: $crate::Message) -> $crate::Verdict {
                    POLICY.with_borrow_mut(|policy| match policy {
                        ::core::option::Option::Some(policy) => $crate::Routing::route(policy, &message),
                        ::core::option::Option::None => $crate::Verdict::pass(),
                    })
                }
            }

            $crate::bindings::export_world!(Exports with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn(&str) -> ::core::result::Result<$policy, ::std::string::String> =
            <$policy as $crate::Routing>::configure;
    };
}
