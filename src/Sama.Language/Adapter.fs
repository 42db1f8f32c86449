namespace Sama.Language

open System
open System.Collections.Generic
open System.IO
open System.Text.Json.Nodes
open TorchSharp
open Sama
open Sama.Functional

/// Folders of adapters alone, as PEFT writes them.
module internal Adapter =

    let private prefix = "base_model.model."
    let private text (x: string) : JsonNode = JsonValue.Create x

    let private list (items: string seq) : JsonNode =
        JsonArray([| for item in items -> text item |])

    /// adapter_config.json and adapter_model.safetensors of θ.
    let save
        (folder: string)
        (basePath: string)
        (head: Head)
        (options: LoraOptions)
        (layout: Layout)
        (theta: Tensor)
        : unit =
        let json = JsonObject()
        json["peft_type"] <- text "LORA"

        json["task_type"] <-
            match head with
            | Head.Classifier -> text "SEQ_CLS"
            | Head.None -> text "FEATURE_EXTRACTION"
            | _ -> null

        json["base_model_name_or_path"] <- text basePath
        json["r"] <- JsonValue.Create options.Rank

        // a whole number where it is one, as PEFT has it
        json["lora_alpha"] <-
            if options.Alpha = Math.Floor options.Alpha && options.Alpha < 1e9 then
                JsonValue.Create(int options.Alpha)
            else
                JsonValue.Create options.Alpha

        json["lora_dropout"] <- JsonValue.Create options.Dropout
        json["target_modules"] <- list options.Targets

        json["modules_to_save"] <-
            match Lora.trained head options with
            | [] -> null
            | modules -> list modules

        json["bias"] <- text "none"
        json["fan_in_fan_out"] <- JsonValue.Create false
        json["inference_mode"] <- JsonValue.Create true

        Scope.run (fun _ ->
            Checkpoint.saveNamed
                folder
                "adapter_model"
                [ for slice in layout.Slices -> struct (prefix + slice.Name, Parameters.view theta slice) ])

        AtomicFile.write (Path.Combine(folder, "adapter_config.json")) (Json.bytes json)

    let private refuse path (json: JsonObject) : unit =
        for key in [ "use_dora"; "use_rslora"; "fan_in_fan_out" ] do
            if Json.flag path json key false then
                raise (Json.fail path $"'{key}' is true, which is not known here")

        for key, expected in [ "peft_type", "LORA"; "bias", "none" ] do
            match Json.text path json key expected with
            | found when found = expected -> ()
            | found -> raise (Json.fail path $"'{key}' is '{found}', only '{expected}' is known")

        for key in [ "rank_pattern"; "alpha_pattern"; "layers_to_transform"; "exclude_modules" ] do
            match Json.tryGet json key with
            | null -> ()
            | :? JsonObject as pattern when pattern.Count = 0 -> ()
            | :? JsonArray as parts when parts.Count = 0 -> ()
            | _ -> raise (Json.fail path $"'{key}' treats parts apart, which is not known here")

    /// PEFT writes 'score' beside 'classifier', of which a model has one: those that the model has are trained. What a file
    /// holds beyond them is refused when it is read.
    let private trained (full: Layout) (modules: string list) : string[] =
        [| for word in List.distinct modules do
               if full.Slices |> Seq.exists (fun s -> Lora.isTrained [ word ] s.Name) then
                   word |]

    /// The options of a folder of adapters of a model.
    let readOptions (full: Layout) (folder: string) : LoraOptions =
        let path = Path.Combine(folder, "adapter_config.json")
        let json = Json.read path
        refuse path json

        try
            LoraOptions(
                int (Json.count path json 1L "r" 8L),
                Json.number path json "lora_alpha" 8.0,
                Json.number path json "lora_dropout" 0.0,
                Array.ofList (Json.texts path json "target_modules"),
                trained full (Json.texts path json "modules_to_save")
            )
        with :? ArgumentException as e ->
            raise (Json.fail path e.Message)

    /// Reads θ of a layout. InvalidDataException if a tensor is missing, has another shape, or has no place in θ.
    let load (folder: string) (layout: Layout) (theta: Tensor) : unit =
        use file = SafetensorsFile.Open(Path.Combine(folder, "adapter_model.safetensors"))
        let missing = HashSet(file.Entries |> Seq.map _.Name)

        Scope.run (fun _ ->
            for slice in layout.Slices do
                let name = prefix + slice.Name
                let entry = file.Entry name
                Checkpoint.requireFloats file entry

                if entry.Shape <> slice.Shape then
                    let shown (shape: int64[]) = String.Join("x", shape)

                    raise (
                        InvalidDataException
                            $"'{file.Path}', tensor '{name}' is [{shown entry.Shape}], the model asks for [{shown slice.Shape}]"
                    )

                file.ReadInto(name, Parameters.view theta slice)
                missing.Remove name |> ignore)

        if missing.Count > 0 then
            raise (InvalidDataException $"'{file.Path}', tensor '{Seq.head missing}': the model has no place for it")
