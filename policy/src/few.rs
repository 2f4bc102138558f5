//! A sorted list that most often has one item, which then needs no memory of its own.

use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

/// Read and changed as a slice; in files a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<T>", into = "Vec<T>", bound(serialize = "T: Clone + Serialize"))]
pub enum Few<T> {
    /// One item.
    One(T),
    /// None, or several.
    Many(Box<[T]>),
}

impl<T> Few<T> {
    /// The items as a list that can grow; nothing stays.
    pub(crate) fn take(&mut self) -> Vec<T> {
        std::mem::take(self).into()
    }

    /// Keeps some.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let mut items = self.take();
        items.retain(keep);
        *self = items.into();
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(Box::default())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(item) => std::slice::from_ref(item),
            Self::Many(items) => items,
        }
    }
}

impl<T> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        match self {
            Self::One(item) => std::slice::from_mut(item),
            Self::Many(items) => items,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(mut items: Vec<T>) -> Self {
        match (items.len(), items.pop()) {
            (1, Some(item)) => Self::One(item),
            (_, last) => {
                items.extend(last);
                Self::Many(items.into())
            }
        }
    }
}

impl<T> From<Few<T>> for Vec<T> {
    fn from(few: Few<T>) -> Self {
        match few {
            Few::One(item) => vec![item],
            Few::Many(items) => items.into(),
        }
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        items.into_iter().collect::<Vec<T>>().into()
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_whatever_its_length() {
        for length in 0..4_u8 {
            let mut few: Few<u8> = (0..length).collect();
            assert_eq!(few.len(), usize::from(length));
            assert_eq!(matches!(few, Few::One(_)), length == 1);
            few.iter_mut().for_each(|item| *item += 1);
            let text = serde_json::to_string(&few).unwrap();
            assert_eq!(serde_json::from_str::<Few<u8>>(&text).unwrap(), few);
            few.retain(|item| *item == 2);
            assert_eq!(few.to_vec(), if length >= 2 { vec![2] } else { vec![] });
        }
    }
}
