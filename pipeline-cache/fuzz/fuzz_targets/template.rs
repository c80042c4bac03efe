//! Key templates: what is understood has a canonical spelling, and rendering never panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pipeline_cache::key::{KeyContext, KeyTemplate};

fuzz_target!(|text: &str| {
    match KeyTemplate::parse(text) {
        Ok(template) => {
            let spelled = template.to_string();
            let again = KeyTemplate::parse(&spelled);
            assert!(again.is_ok_and(|again| again.to_string() == spelled));
            if let Ok(key) = template.render(&KeyContext::new("/nonexistent")) {
                assert!(key.key().as_str().chars().count() <= 900);
            }
        }
        // The message points into the template.
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
