namespace Sama

open System.Collections.Generic

/// What a checkpoint says beside its tensors.
[<NoComparison; ReferenceEquality>]
type CheckpointInfo =
    {
        /// where it lies
        Path: string
        /// base steps taken
        Step: int64
        /// fixes batches and masks
        Seed: int64
        /// the levels' names, from the lowest up
        Levels: IReadOnlyList<string>
        /// what wrote it, by "library", "libtorch", "torchsharp", "cpu", "threads", "ranks", "device": another kind of CPU or
        /// number of threads goes on with other roundings
        Origin: IReadOnlyDictionary<string, string>
        /// what the caller added
        Notes: IReadOnlyDictionary<string, string>
    }

namespace Sama.Functional

open System
open System.Collections.Generic
open System.Text.Json.Nodes
open Sama

/// A rule's state without its numbers.
type internal RuleTree =
    {
        Count: int64
        Names: string list
        /// names of the parameters of a group
        Parameters: string list
        Parts: RuleTree list
    }

/// A step of a window: its number, the seed of its draws, the checksum of its batches.
type internal TakenFields =
    { Number: int64
      Seed: int64
      Batches: string }

/// An open window without its numbers.
type internal WindowFields =
    { Began: int64
      Taken: TakenFields list
      Rule: RuleTree }

type internal LevelFields =
    { Name: string
      Update: string
      Parameters: (string * int64 list) list
      Rule: RuleTree
      Window: WindowFields option }

/// Everything of a run's state but the numbers of its tensors, and what wrote it.
type internal CheckpointFields =
    {
        Step: int64
        Seed: int64
        Levels: LevelFields list
        Buffers: string list
        /// of every tensor of the file, by its name
        Checksums: (string * string) list
        Origin: (string * string) list
        Notes: (string * string) list
    }

/// Fields of a checkpoint as JSON and back.
module internal CheckpointFields =

    let private texts (items: string list) =
        JsonArray [| for item in items -> JsonValue.Create item :> JsonNode |]

    let private map (items: (string * string) list) =
        let json = JsonObject()

        for key, value in items do
            json.Add(key, JsonValue.Create value)

        json

    let private object (items: (string * JsonNode) list) =
        JsonObject [ for key, value in items -> KeyValuePair(key, value) ]

    let private list (write: 'item -> JsonNode) (items: 'item list) =
        JsonArray [| for item in items -> write item |]

    let private number (x: int64) = JsonValue.Create x :> JsonNode

    let rec private rule (tree: RuleTree) : JsonNode =
        object
            [ "count", number tree.Count
              "tensors", texts tree.Names
              "parameters", texts tree.Parameters
              "parts", list rule tree.Parts ]

    let private level (own: LevelFields) : JsonNode =
        let parameter (name: string, shape: int64 list) : JsonNode =
            object [ "name", JsonValue.Create name; "shape", list number shape ]

        let taken (own: TakenFields) : JsonNode =
            object
                [ "step", number own.Number
                  "seed", number own.Seed
                  "batches", JsonValue.Create own.Batches ]

        let window: JsonNode =
            match own.Window with
            | None -> null
            | Some w -> object [ "began", number w.Began; "taken", list taken w.Taken; "rule", rule w.Rule ]

        object
            [ "name", JsonValue.Create own.Name
              "update", JsonValue.Create own.Update
              "parameters", list parameter own.Parameters
              "rule", rule own.Rule
              "window", window ]

    let toJson (fields: CheckpointFields) : string =
        let json =
            object
                [ "step", number fields.Step
                  "seed", number fields.Seed
                  "levels", list level fields.Levels
                  "buffers", texts fields.Buffers
                  "origin", map fields.Origin
                  "notes", map fields.Notes
                  "checksums", map fields.Checksums ]

        json.ToJsonString()

    let private items (json: JsonNode) : JsonNode list = List.ofSeq (json.AsArray())

    let private textsOf (json: JsonNode) =
        [ for item in items json -> item.GetValue<string>() ]

    let private mapOf (json: JsonNode) =
        [ for item in json.AsObject() -> item.Key, item.Value.GetValue<string>() ]

    let private numberOf (json: JsonNode) = json.GetValue<int64>()

    let rec private ruleOf (json: JsonNode) : RuleTree =
        { Count = numberOf json["count"]
          Names = textsOf json["tensors"]
          Parameters = textsOf json["parameters"]
          Parts = items json["parts"] |> List.map ruleOf }

    let private levelOf (json: JsonNode) : LevelFields =
        { Name = json["name"].GetValue<string>()
          Update = json["update"].GetValue<string>()
          Parameters =
            [ for own in items json["parameters"] ->
                  own["name"].GetValue<string>(), items own["shape"] |> List.map numberOf ]
          Rule = ruleOf json["rule"]
          Window =
            match json["window"] with
            | null -> None
            | window ->
                Some
                    { Began = numberOf window["began"]
                      Taken =
                        [ for own in items window["taken"] ->
                              { Number = numberOf own["step"]
                                Seed = numberOf own["seed"]
                                Batches = own["batches"].GetValue<string>() } ]
                      Rule = ruleOf window["rule"] } }

    /// Exceptions of every kind for a text that `toJson` did not write.
    let ofJson (text: string) : CheckpointFields =
        let json = JsonNode.Parse text

        { Step = numberOf json["step"]
          Seed = numberOf json["seed"]
          Levels = items json["levels"] |> List.map levelOf
          Buffers = textsOf json["buffers"]
          Checksums = mapOf json["checksums"]
          Origin = mapOf json["origin"]
          Notes = mapOf json["notes"] }
