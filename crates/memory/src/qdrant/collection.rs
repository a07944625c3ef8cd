//! The collection: made with its indexes by whoever fills it, refused when it does not fit.

use std::sync::atomic::Ordering;

use qdrant_client::qdrant::{
    CollectionInfo, CollectionParams, CreateCollectionBuilder, CreateFieldIndexCollectionBuilder, Distance, FieldType,
    KeywordIndexParamsBuilder, Modifier, SparseVectorParamsBuilder, SparseVectorsConfigBuilder, VectorParamsBuilder,
    VectorsConfigBuilder, vectors_config::Config,
};

use super::{
    Qdrant,
    wire::{AGENT, CREATED_AT, DENSE, KIND, PROJECT, TASK, WORDS},
};
use crate::Error;

impl Qdrant {
    /// Makes sure that the collection is there, fits and has its indexes. Whoever finds it missing does not make it: an empty
    /// one would look like one that nothing was ever put in.
    pub(super) async fn ensure(&self) -> Result<(), Error> {
        if self.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        match self.info().await? {
            Some(info) => self.complete(&info).await,
            None => Err(self.missing()),
        }
    }

    /// Whether there is no collection: it was never made, or it was lost. One that is there has to fit.
    pub async fn is_missing(&self) -> Result<bool, Error> {
        match self.ensure().await {
            Ok(()) => Ok(false),
            Err(Error::NoCollection { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Makes the collection, and its indexes, when they are missing. Whoever makes it sees to it first that it will be filled.
    pub async fn prepare(&self) -> Result<(), Error> {
        if self.is_ready.load(Ordering::Acquire) {
            return Ok(());
        }
        let info = match self.info().await? {
            Some(info) => info,
            None => self.create().await?,
        };
        self.complete(&info).await
    }

    /// Whether the collection was missing when it was last asked for, and nobody has made it since.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    pub(super) fn missing(&self) -> Error {
        self.is_lost.store(true, Ordering::Release);
        Error::NoCollection { url: self.url.to_string(), collection: self.collection.to_string() }
    }

    /// Makes the indexes that are missing, unless the collection does not fit.
    async fn complete(&self, info: &CollectionInfo) -> Result<(), Error> {
        self.fits(info)?;
        for (field, kind) in [
            (PROJECT, FieldType::Keyword),
            (KIND, FieldType::Keyword),
            (TASK, FieldType::Keyword),
            (AGENT, FieldType::Keyword),
            (CREATED_AT, FieldType::Integer),
        ] {
            if info.payload_schema.contains_key(field) {
                continue;
            }
            let mut index = CreateFieldIndexCollectionBuilder::new(&*self.collection, field, kind).wait(true);
            if field == PROJECT {
                index = index.field_index_params(KeywordIndexParamsBuilder::default().is_tenant(true));
            }
            self.limited("create index", self.client.create_field_index(index)).await?;
        }
        self.is_lost.store(false, Ordering::Release);
        self.is_ready.store(true, Ordering::Release);
        Ok(())
    }

    async fn info(&self) -> Result<Option<CollectionInfo>, Error> {
        let exists = self.limited("look up collection", self.client.collection_exists(&*self.collection)).await?;
        if !exists {
            return Ok(None);
        }
        let answer = self.limited("read collection", self.client.collection_info(&*self.collection)).await?;
        Ok(answer.result)
    }

    async fn create(&self) -> Result<CollectionInfo, Error> {
        let mut dense = VectorsConfigBuilder::default();
        dense.add_named_vector_params(DENSE, VectorParamsBuilder::new(self.dimensions as u64, Distance::Cosine));
        let mut sparse = SparseVectorsConfigBuilder::default();
        sparse.add_named_vector_params(WORDS, SparseVectorParamsBuilder::default().modifier(Modifier::Idf));
        let request =
            CreateCollectionBuilder::new(&*self.collection).vectors_config(dense).sparse_vectors_config(sparse);
        let created = self.limited("create collection", self.client.create_collection(request)).await;
        match (self.info().await?, created) {
            // Somebody else may have made it between our question and our request.
            (Some(info), _) => Ok(info),
            (None, Err(error)) => Err(error),
            (None, Ok(_)) => Err(self.missing()),
        }
    }

    fn fits(&self, info: &CollectionInfo) -> Result<(), Error> {
        let params = info.config.as_ref().and_then(|config| config.params.as_ref());
        let Some(found) = self.misfit(params) else { return Ok(()) };
        Err(Error::Mismatch {
            collection: self.collection.to_string(),
            found,
            wanted: format!(
                "cosine vectors of {} dimensions named `{DENSE}`, and sparse vectors with IDF named `{WORDS}`",
                self.dimensions
            ),
        })
    }

    /// What is wrong with a collection; none when it fits.
    fn misfit(&self, params: Option<&CollectionParams>) -> Option<String> {
        let dense = match params.and_then(|params| params.vectors_config.as_ref()?.config.as_ref()) {
            Some(Config::ParamsMap(named)) => named.map.get(DENSE),
            Some(Config::Params(_)) | None => None,
        };
        let Some(dense) = dense else { return Some(format!("no vector named `{DENSE}`")) };
        if dense.size != self.dimensions as u64 {
            return Some(format!("vectors of {} dimensions", dense.size));
        }
        if dense.distance() != Distance::Cosine {
            return Some(format!("distance `{}`", dense.distance().as_str_name()));
        }
        let Some(sparse) = params.and_then(|params| params.sparse_vectors_config.as_ref()?.map.get(WORDS)) else {
            return Some(format!("no sparse vector named `{WORDS}`"));
        };
        (sparse.modifier() != Modifier::Idf).then(|| format!("sparse vectors named `{WORDS}` without IDF"))
    }
}
