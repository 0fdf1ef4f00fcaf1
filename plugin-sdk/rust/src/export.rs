//! The exports of a component, made from a type that implements the traits of the hooks.

/// Makes the component's exports from a type and the hooks it implements, as in
/// `export_policy!(Mirror: routing)`. Once per crate; nothing outside of WebAssembly.
#[rustfmt::skip]
#[macro_export]
macro_rules! export_policy {
    ($policy:ty: $($hook:ident),+ $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            ::std::thread_local! {
                static POLICY: ::core::cell::RefCell<::core::option::Option<$policy>> =
                    const { ::core::cell::RefCell::new(::core::option::Option::None) };
            }

            /// Nothing when the policy is not configured.
            fn with<R>(decide: impl ::core::ops::FnOnce(&mut $policy) -> R) -> ::core::option::Option<R> {
                POLICY.with_borrow_mut(|policy| policy.as_mut().map(decide))
            }

            struct Exports;

            impl $crate::bindings::lifecycle::Guest for Exports {
                fn configure(
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    $crate::host::log_panics();
                    let policy = <$policy as $crate::Policy>::configure(&config)?;
                    POLICY.set(::core::option::Option::Some(policy));
                    ::core::result::Result::Ok(())
                }

                fn self_test() -> ::core::result::Result<(), ::std::string::String> {
                    with(|policy| $crate::Policy::self_test(policy)).unwrap_or(::core::result::Result::Ok(()))
                }
            }

            $crate::bindings::lifecycle::export_lifecycle!(
                Exports with_types_in $crate::bindings::lifecycle
            );
            $($crate::__export_hook!($hook);)+
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: () = {
            $($crate::__check_hook!($hook, $policy);)+
        };
    };
}

/// One hook of the type that `Exports` stands for.
#[doc(hidden)]
#[rustfmt::skip]
#[macro_export]
macro_rules! __export_hook {
    (routing) => {
        impl $crate::bindings::routing::Guest for Exports {
            fn members_changed(members: $crate::QueueMembers) {
                with(|policy| $crate::Routing::members_changed(policy, members));
            }

            fn route(message: $crate::Message) -> $crate::Verdict {
                let verdict = with(|policy| $crate::Routing::route(policy, &message));
                verdict.unwrap_or_else($crate::Verdict::pass)
            }
        }

        $crate::bindings::routing::export_routing_hook!(Exports with_types_in $crate::bindings::routing);
    };
    (ack) => {
        impl $crate::bindings::ack::Guest for Exports {
            fn plan(
                message: $crate::Message,
                configured: $crate::AckPlan,
            ) -> ::core::option::Option<$crate::AckPlan> {
                with(|policy| $crate::Ack::plan(policy, &message, &configured)).flatten()
            }

            fn failed(failure: $crate::Failure) -> $crate::Decision {
                let decision = with(|policy| $crate::Ack::failed(policy, &failure));
                decision.unwrap_or($crate::Decision::Continue)
            }
        }

        $crate::bindings::ack::export_ack_hook!(Exports with_types_in $crate::bindings::ack);
    };
    (admission) => {
        impl $crate::bindings::admission::Guest for Exports {
            fn admit(message: $crate::Message) -> $crate::Admittance {
                let answer = with(|policy| $crate::Admission::admit(policy, &message));
                answer.unwrap_or($crate::Admittance::Continue)
            }
        }

        $crate::bindings::admission::export_admission_hook!(
            Exports with_types_in $crate::bindings::admission
        );
    };
    (overflow) => {
        impl $crate::bindings::overflow::Guest for Exports {
            fn overflow(what: $crate::Overflowing) -> $crate::Action {
                let action = with(|policy| $crate::Overflow::overflow(policy, &what));
                action.unwrap_or($crate::Action::Continue)
            }
        }

        $crate::bindings::overflow::export_overflow_hook!(Exports with_types_in $crate::bindings::overflow);
    };
    (compression) => {
        impl $crate::bindings::compression::Guest for Exports {
            fn choose(message: $crate::Message, audience: $crate::Audience) -> $crate::Choice {
                let choice = with(|policy| $crate::Compression::choose(policy, &message, &audience));
                choice.unwrap_or_else($crate::Choice::pass)
            }
        }

        $crate::bindings::compression::export_compression_hook!(
            Exports with_types_in $crate::bindings::compression
        );
    };
}

/// Has the compiler find a missing hook without building a component.
#[doc(hidden)]
#[rustfmt::skip]
#[macro_export]
macro_rules! __check_hook {
    (routing, $policy:ty) => {
        const _: fn(&mut $policy, &$crate::Message) -> $crate::Verdict = <$policy as $crate::Routing>::route;
    };
    (ack, $policy:ty) => {
        const _: fn(&mut $policy, &$crate::Failure) -> $crate::Decision = <$policy as $crate::Ack>::failed;
    };
    (admission, $policy:ty) => {
        const _: fn(&mut $policy, &$crate::Message) -> $crate::Admittance =
            <$policy as $crate::Admission>::admit;
    };
    (overflow, $policy:ty) => {
        const _: fn(&mut $policy, &$crate::Overflowing) -> $crate::Action =
            <$policy as $crate::Overflow>::overflow;
    };
    (compression, $policy:ty) => {
        const _: fn(&mut $policy, &$crate::Message, &$crate::Audience) -> $crate::Choice =
            <$policy as $crate::Compression>::choose;
    };
}
