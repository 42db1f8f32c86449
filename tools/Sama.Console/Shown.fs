namespace Sama

open System.Collections.Generic
open System.Globalization
open Spectre.Console
open Sama.DataOptimization

/// Figures over seeds as text, and tables of text.
[<AbstractClass; Sealed>]
type Shown =

    static let number (format: string) (value: float) : string =
        value.ToString(format, CultureInfo.InvariantCulture)

    /// Mean ± standard deviation over seeds; the value alone where there is one.
    static member Spread(format: string, values: IReadOnlyList<float>) : string =
        let over = Uncertainty.OverSeeds values

        if over.Count = 1 then
            number format over.Mean
        else
            $"{number format over.Mean} ± {number format over.StandardDeviation}"

    /// Mean and Student's 95 % interval over seeds; the value alone where there is one.
    static member Interval(format: string, values: IReadOnlyList<float>) : string =
        let over = Uncertainty.OverSeeds values

        if over.Count = 1 then
            number format over.Mean
        else
            $"{number format over.Mean} ({number format over.Low} to {number format over.High})"

    /// Prints a table, wide enough for its columns where the output is no console.
    static member Table(columns: string seq, rows: string seq seq) : unit =
        let table = Table()

        for column in columns do
            table.AddColumn(Markup.Escape column) |> ignore

        for row in rows do
            table.AddRow [| for cell in row -> Markup.Escape cell |] |> ignore

        AnsiConsole.Profile.Width <- max AnsiConsole.Profile.Width 150
        AnsiConsole.Write table
