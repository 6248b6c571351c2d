//! Setters of structures that may grow.

/// Setters for a structure that may grow: other crates cannot write it out, and begin with its default.
macro_rules! setters {
    ($type:ident { $($field:ident, $with:ident: $of:ty;)* }) => {
        impl $type {
            $(
                #[doc = concat!("The same with another [`", stringify!($type), "::", stringify!($field), "`].")]
                #[must_use]
                pub fn $with(mut self, $field: $of) -> $type {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}
