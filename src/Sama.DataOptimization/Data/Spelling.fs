namespace Sama.DataOptimization

open System
open System.Collections.Generic
open System.Globalization
open System.IO
open System.Reflection
open System.Text

/// One name in several spellings: numbers, case, spaces around it, letters that are composed of a letter and its marks.
module internal Spelling =

    /// The name, or the whole number that a decimal fraction is, as tables write one in a column with gaps: "1.0" is "1".
    let whole (name: string) : string =
        match name.IndexOf '.' with
        | dot when dot > 0 && dot < name.Length - 1 && Seq.forall ((=) '0') name[dot + 1 ..] ->
            match Int64.TryParse(name[.. dot - 1], NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture) with
            | true, value -> value.ToString CultureInfo.InvariantCulture
            | _ -> name
        | _ -> name

    /// A number of a JSON file as other files write it: as it stands there, but without an exponent.
    let number (raw: string) : string =
        if raw = "-0" then
            "0"
        elif raw.IndexOfAny [| 'e'; 'E' |] < 0 then
            raw
        else
            match Decimal.TryParse(raw, NumberStyles.Float, CultureInfo.InvariantCulture) with
            | true, value -> value.ToString CultureInfo.InvariantCulture
            | _ -> raw

    /// Letters to what they are composed of. The framework's own normalisation does nothing where it runs without ICU.
    let private parts =
        lazy
            (use stream =
                Assembly.GetExecutingAssembly().GetManifestResourceStream "decompositions.txt"

             use reader = new StreamReader(stream)
             let character (hex: string) = char (Convert.ToInt32(hex, 16))
             let found = Dictionary<char, char[]>()

             for line in reader.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries) do
                 if line[0] <> '#' then
                     let letters = line.Split ' ' |> Array.map character
                     found[letters[0]] <- letters[1..]

             found)

    let rec private append (text: StringBuilder) (c: char) : unit =
        match parts.Value.TryGetValue c with
        | true, letters -> letters |> Array.iter (append text)
        | _ when c >= '\uAC00' && c <= '\uD7A3' ->
            // a Hangul syllable: initial, vowel, final
            let at = int c - 0xAC00

            text.Append(char (0x1100 + at / 588)).Append(char (0x1161 + at % 588 / 28))
            |> ignore

            if at % 28 > 0 then
                text.Append(char (0x11A7 + at % 28)) |> ignore
        | _ -> text.Append c |> ignore

    let private isMark (c: char) =
        CharUnicodeInfo.GetUnicodeCategory c = UnicodeCategory.NonSpacingMark

    /// Letters decomposed into letter and marks, the marks of a letter in one order.
    let private decomposed (name: string) : string =
        if Ascii.IsValid(name.AsSpan()) then
            name
        else
            let text = StringBuilder()
            String.iter (append text) name
            let letters = text.ToString().ToCharArray()
            let mutable first = 0

            while first < letters.Length do
                let mutable next = first + 1

                while next < letters.Length && isMark letters[next] do
                    next <- next + 1

                Array.Sort(letters, first + 1, next - first - 1)
                first <- next

            String letters

    /// Equal for names that a reader takes for one: they differ by spaces around them, by case, or by letters that are composed.
    let alike (name: string) : string =
        (decomposed (name.Trim())).ToUpperInvariant()

    /// What tells two such names apart, where it cannot be seen; else nothing.
    let difference (one: string) (other: string) : string =
        let seen (name: string) = name.Trim().ToUpperInvariant()

        if seen one = seen other then
            ""
        else
            " (accented letters are single characters in one, letters with marks in the other)"
