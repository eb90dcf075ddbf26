//! Vectors of a split model are those of the unsplit one, bit for bit, alone or in company.

use serde_json::{Value, json};
use tests::api::Api;
use tests::{Wanted, fixtures, plans};

const LAYERS: u32 = 8;

/// The vectors of some inputs as base64 of their bits, for each way of pooling.
async fn vectors(api: &Api, inputs: &[Vec<u32>]) -> Vec<String> {
    let mut all = Vec::new();
    for pooling in ["last", "mean"] {
        let body = json!({"input": inputs, "pooling": pooling, "encoding_format": "base64"});
        let body = api.post("/v1/embeddings", body).await.ok();
        let tokens: usize = inputs.iter().map(Vec::len).sum();
        assert_eq!(body["usage"]["total_tokens"], tokens);
        let data = body["data"].as_array().unwrap();
        assert_eq!(data.len(), inputs.len());
        let bits = |entry: &Value| entry["embedding"].as_str().unwrap().to_owned();
        all.extend(data.iter().map(bits));
    }
    all
}

#[tokio::test]
async fn vectors_do_not_depend_on_the_split_or_on_company() {
    let model = fixtures::gguf("qwen3_5_moe");
    let id = model.file_stem().unwrap().to_str().unwrap().to_owned();
    let goldens = fixtures::goldens("qwen3_5_moe");
    let mut inputs: Vec<Vec<u32>> = goldens.into_iter().map(|golden| golden.prompt).collect();
    // Long enough to be cut where it shares a step with the others.
    inputs.push((0..500).map(|at| 3 + at % 400).collect());
    let mut expected: Option<Vec<String>> = None;
    for cuts in [&[][..], &[3], &[2, 5]] {
        let cluster = Wanted::model(&model)
            .nodes(cuts.len() + 1)
            .plan(plans::cut(&id, LAYERS, cuts))
            .ready()
            .await;
        let api = cluster.api();
        // An answer runs beside them.
        let answering = tokio::spawn({
            let (api, prompt) = (api.clone(), inputs[0].clone());
            async move { api.greedy(&prompt, 40, 0).await }
        });
        let together = vectors(&api, &inputs).await;
        answering.await.unwrap();
        let count = inputs.len();
        for (at, input) in inputs.iter().enumerate() {
            let alone = vectors(&api, std::slice::from_ref(input)).await;
            let both = [&together[at], &together[count + at]];
            assert_eq!(alone.iter().collect::<Vec<_>>(), both, "input {at}");
        }
        match &expected {
            None => expected = Some(together),
            Some(expected) => assert_eq!(&together, expected, "cut at {cuts:?}"),
        }
    }
    let expected = expected.unwrap();
    let distinct: std::collections::BTreeSet<&String> = expected.iter().collect();
    assert_eq!(distinct.len(), expected.len(), "every vector is its own");
}
