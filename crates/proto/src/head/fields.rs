//! The header fields of a request head.

pub(super) type Field<'b> = (&'b str, &'b [u8]);

/// So many fields need no memory of their own: most clients send fewer.
const INLINE_FIELDS: usize = 12;

/// The header fields. `SmallVec` would do, but it is invariant: a head could not be lent for a shorter time
/// than its bytes.
#[derive(Clone, Debug)]
pub(super) struct Fields<'b> {
    inline: [Field<'b>; INLINE_FIELDS],
    /// How many of them are used.
    count: usize,
    /// All of them, where they are more.
    spilled: Vec<Field<'b>>,
}

impl<'b> Fields<'b> {
    pub(super) fn new() -> Fields<'b> {
        Fields { inline: [("", b""); INLINE_FIELDS], count: 0, spilled: Vec::new() }
    }

    pub(super) fn push(&mut self, field: Field<'b>) {
        if self.count < INLINE_FIELDS {
            self.inline[self.count] = field;
            self.count += 1;
            return;
        }
        if self.spilled.is_empty() {
            self.spilled.extend_from_slice(&self.inline);
        }
        self.spilled.push(field);
    }

    pub(super) fn as_slice(&self) -> &[Field<'b>] {
        if self.spilled.is_empty() { &self.inline[..self.count] } else { &self.spilled }
    }
}

impl<'b> FromIterator<Field<'b>> for Fields<'b> {
    fn from_iter<I: IntoIterator<Item = Field<'b>>>(fields: I) -> Fields<'b> {
        let mut all = Fields::new();
        fields.into_iter().for_each(|field| all.push(field));
        all
    }
}
